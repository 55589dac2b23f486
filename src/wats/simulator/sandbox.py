"""A service and a fake Meta in one process, for a first look: nothing is kept."""

import os
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from wats.clock import to_iso, utc_now
from wats.config import (
    ClientSecrets,
    GraphConfig,
    Profile,
    Secrets,
    ServiceConfig,
    WebhookConfig,
    WhatsAppConfig,
    database_of,
    with_overrides,
)
from wats.log import print_line, write_json_line, write_text
from wats.privacy import Secret
from wats.service import WatsApp, create_wats_service_app
from wats.simulator import Simulator, SimulatorSettings
from wats.simulator.configured import simulated_numbers
from wats.simulator.echo import Echo
from wats.store.open import open_store
from wats.telemetry.contract.values import UpdateKind

_ACCESS_VARIABLE: Final = "WATS_RELOAD_SANDBOX"
_LOOPBACK: Final = "127.0.0.1"


class SandboxAccess(NamedTuple):
    """The values that a client of a sandbox needs, kept while the sandbox is restarted.

    Attributes:
        token: The bearer token of the service.
        meta_port: The port of the fake Meta; 0 takes a free one.
        shown: The file for the instructions that were printed; `None` if there is no restart.
    """

    token: str
    meta_port: int = 0
    shown: Path | None = None

    @classmethod
    def reserved(cls, folder: Path) -> "SandboxAccess":
        """Return a new token, a port that is free now, and a file in *folder*."""
        with socket.create_server((_LOOPBACK, 0)) as server:
            port: int = server.getsockname()[1]
        return cls(secrets.token_urlsafe(24), port, folder / "instructions")

    @classmethod
    def inherited(cls) -> "SandboxAccess":
        """Return the access from the environment of a restarted process, or else a new one."""
        token, *others = os.environ.pop(_ACCESS_VARIABLE, "").split(":", 2)
        if not others:
            return cls(secrets.token_urlsafe(24))
        port, shown = others
        return cls(token, int(port), Path(shown))

    def as_environ(self) -> Mapping[str, str]:
        """Return the variable that `inherited` reads."""
        return {_ACCESS_VARIABLE: f"{self.token}:{self.meta_port}:{self.shown}"}

    def is_news(self, instructions: str) -> bool:
        """Return whether *instructions* differ from those of the last call, in any process."""
        if self.shown is None:
            return True
        with suppress(OSError):  # then they are printed again
            if self.shown.exists() and self.shown.read_text("utf-8") == instructions:
                return False
            self.shown.write_text(instructions, "utf-8")
        return True


@contextmanager
def lasting_access() -> Iterator[Mapping[str, str]]:
    """Yield the environment of a sandbox that keeps its access when it restarts."""
    with tempfile.TemporaryDirectory(prefix="wats-sandbox-") as folder:
        yield SandboxAccess.reserved(Path(folder)).as_environ()


class Sandbox:
    """An async context in which `app` can be served with `profile`; `greet` explains its use.

    Args:
        base: The profile to try: its paths, ids, groups, limits, handlers, subscribers and pullers.
            Other secrets than *clients*, the database, Graph, the sink and the address are those of
            the sandbox.
        clients: The secrets of the subscribers and API tokens of *base*; those without are left
            out.
        host: The address to listen on; loopback by default.
        port: The port to listen on; that of *base* by default.
        echoes: Whether the sandbox replies to each text of a customer.
        log_updates: Whether each received update is logged.
        handlers: Handlers in addition to those of *base*.
        show: Whether each message on the customers' phones is printed.
        unused: A config file that other commands would use, and this sandbox does not.
    """

    def __init__(
        self,
        base: Profile | None = None,
        clients: ClientSecrets | None = None,
        *,
        host: str | None = None,
        port: int | None = None,
        echoes: bool = False,
        log_updates: bool = False,
        handlers: Sequence[str] = (),
        show: bool = False,
        unused: Path | None = None,
    ) -> None:
        self._handlers = handlers
        self._clients = clients if clients is not None else ClientSecrets({}, {})
        self._base, self._left_out = _usable(base if base is not None else _EXAMPLE, self._clients)
        self._host = host if host is not None else _LOOPBACK
        self._port = port
        self._log_updates = log_updates
        self._echoes = echoes
        self._show = show
        self._unused = unused
        self._access = SandboxAccess.inherited()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Sandbox":
        async with AsyncExitStack() as stack:
            await self._enter(stack)
            self._stack = stack.pop_all()
        return self

    async def _enter(self, stack: AsyncExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="wats-sandbox-"))
        own = Secrets(
            access_token=Secret(secrets.token_urlsafe(24)),
            verify_token=Secret(secrets.token_urlsafe(24)),
            app_secrets=(Secret(secrets.token_hex(16)),),
            bearer_tokens=(Secret(self._access.token),),
            subscribers=self._clients.subscribers,
            api_tokens=self._clients.api_tokens,
        )
        settings = SimulatorSettings(
            app_secret=own.app_secrets[0],
            verify_token=own.verify_token,
            access_token=own.access_token,
            waba_id=self._base.whatsapp.waba_id,
            phone_number_id=self._base.whatsapp.phone_number_id,
            numbers=simulated_numbers(self._base, own),
        )
        self._simulator = await self._simulated(stack, settings)
        if self._show:
            self._simulator.show(print_line)
        profile = _isolated(self._base, self._simulator.url, Path(folder) / "sandbox.db")
        self.profile: Profile = with_overrides(
            profile, host=self._host, port=self._port, handlers=self._handlers
        )
        url = database_of(self.profile, own)[0]
        self.app: WatsApp = create_wats_service_app(
            profile=self.profile,
            secrets=own,
            persistence=open_store(url) if url is not None else None,
            log_updates=self._log_updates,
        )
        if self._echoes:
            self.app.on(UpdateKind.MESSAGE)(Echo(_log))

    async def _simulated(self, stack: AsyncExitStack, settings: SimulatorSettings) -> Simulator:
        """Start the fake Meta, on another port if its own was taken during a restart."""
        simulator = Simulator(replace(settings, port=self._access.meta_port))
        try:
            return await stack.enter_async_context(simulator)
        except OSError:
            return await stack.enter_async_context(Simulator(settings))

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def greet(self, url: str) -> None:
        """Connect the fake Meta to the service at *url*, and print instructions on stderr.

        After a restart, they are printed only if they have changed.
        """
        self._simulator.set_webhook(url + self.profile.webhook.path)
        api = url + self.profile.service.api_prefix
        meta = self._simulator.url
        text = _GREETING.format(url=url, api=api, token=self._access.token, meta=meta)
        if self._left_out:
            text = _LEFT_OUT.format(names=", ".join(self._left_out)) + text
        if self._unused is not None:
            text = _UNUSED.format(config=self._unused) + text
        write_text(text if self._access.is_news(text) else _AGAIN.format(url=url))


def _log(event: Mapping[str, object]) -> None:
    write_json_line({**event, "at": to_iso(utc_now())})


def _usable(base: Profile, clients: ClientSecrets) -> tuple[Profile, Sequence[str]]:
    """Return *base* without the subscribers and API tokens that have no secret, and their names."""
    subscribers = [each for each in base.subscribers if clients.subscribers.get(each.name)]
    tokens = [each for each in base.service.tokens if clients.api_tokens.get(each.name)]
    left_out = [
        *(f"subscriber {each.name}" for each in base.subscribers if each not in subscribers),
        *(f"token {each.name}" for each in base.service.tokens if each not in tokens),
    ]
    usable = replace(
        base,
        subscribers=tuple(subscribers),
        service=replace(base.service, tokens=tuple(tokens)),
    )
    return usable, left_out


def _isolated(base: Profile, graph_url: str, database: Path) -> Profile:
    """Return *base* with the fake Meta and a database of its own, or none if it has none."""
    url = None if base.persistence.url is None else f"sqlite:///{database}"
    return replace(
        base,
        graph=replace(base.graph, base_url=graph_url, proxy=None),
        service=replace(base.service, workers=1, drain_seconds=0.0),
        persistence=replace(base.persistence, url=url),
    )


_EXAMPLE = Profile(
    name="sandbox",
    graph=GraphConfig(api_version="v25.0", base_url="http://127.0.0.1"),
    whatsapp=WhatsAppConfig(waba_id="100000000000001", phone_number_id="200000000000002"),
    webhook=WebhookConfig(path="/webhooks/whatsapp"),
    service=ServiceConfig(host="127.0.0.1", port=8787, api_prefix="/api"),
)

_LEFT_OUT = "Left out, because their secrets are not set: {names}.\n"

_UNUSED = "{config} is not used; give --config to use it.\n"

_AGAIN = "The sandbox is running again at {url}, with the same TOKEN and META.\n"

_GREETING = """\
The sandbox is running at {url}, with a fake Meta. In another terminal, try:

  export TOKEN={token}
  export META={meta}
  # send a message; the fake Meta reports its statuses in signed webhooks
  curl -s {api}/messages/text -H "Authorization: Bearer $TOKEN" \\
    -H 'Idempotency-Key: first' -d '{{"to": "15550001234", "text": "Hello"}}'
  # simulate a message from a customer
  curl -s $META/_simulator/inbound -d '{{"from": "15550001234", "text": "Hi!"}}'
  # list the messages on the customers' phones
  curl -s $META/_simulator/messages
  # list both messages as your application sees them, and read the metrics
  curl -s {api}/messages -H "Authorization: Bearer $TOKEN"
  curl -s {url}/metrics -H "Authorization: Bearer $TOKEN"

Stop the sandbox with Ctrl-C; all data is discarded.
"""
