"""The simulator: its start and stop, and its Python interface."""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from aiohttp import web

from wats.simulator.control import DEFAULT_NAME, ControlEndpoints
from wats.simulator.graph import GraphEndpoints
from wats.simulator.phone import PhoneMessage
from wats.simulator.settings import AcceptedMessage, Counts, SimulatorSettings
from wats.simulator.world import World

_ANY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  # recognized, not listened on
# Zero would wait for a slow response without limit.
_SHUTDOWN_SECONDS: Final = 0.01
_MAX_BODY_BYTES: Final = 1024 * 1024


class Simulator:
    """A fake Meta that listens on one port.

    It serves Graph at its `url`, and sends webhooks to the configured one. It is started once; its
    state is gone when it stops.

        async with Simulator(SimulatorSettings(app_secret=…, verify_token=…)) as simulator:
            client = GraphClient(base_url=simulator.url, …)
    """

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        self._world = World(settings)
        self._runner: web.AppRunner | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """Its address, for Graph's base URL."""
        return self._url

    @property
    def counts(self) -> Counts:
        """The counts since the start."""
        return self._world.counts

    @property
    def accepted(self) -> Sequence[AcceptedMessage]:
        """The messages that Graph accepted, at most the last 10,000."""
        return tuple(self._world.accepted)

    @property
    def messages(self) -> Sequence[PhoneMessage]:
        """The last 1,000 messages on the phones of the customers, oldest first."""
        return self._world.phone.messages

    @property
    def pending(self) -> int:
        """The number of webhook items that are pending or being delivered."""
        return self._world.courier.pending

    async def start(self) -> None:
        """Listen, and begin to deliver webhooks.

        Raises:
            OSError: The port is taken.
        """
        graph, control = GraphEndpoints(self._world), ControlEndpoints(self._world)
        app = web.Application(
            middlewares=[control.guard, graph.guard], client_max_size=_MAX_BODY_BYTES
        )
        app.add_routes([*control.routes(), *graph.routes()])
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._settings.host, self._settings.port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        port = runner.addresses[0][1]
        host = "127.0.0.1" if self._settings.host in _ANY_ADDRESS else self._settings.host
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        await self._world.courier.start()

    async def stop(self) -> None:
        """Stop immediately. May be called twice."""
        await self._world.courier.stop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> "Simulator":
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def set_webhook(self, url: str | None) -> None:
        """Send webhooks to *url* from now on, or nowhere."""
        self._world.courier.webhook_url = url

    def show(self, write: Callable[[str], object]) -> None:
        """Call *write* with a line for each message on the phones of the customers from now on."""
        self._world.phone.write = write

    async def verify_webhook(self) -> bool:
        """Return whether the webhook passes Meta's challenge."""
        return await self._world.courier.verify(secrets.token_hex(8))

    def inbound(
        self,
        sender: str,
        text: str | None = None,
        *,
        message: Mapping[str, Any] | None = None,
        name: str = DEFAULT_NAME,
        count: int = 1,
        group_id: str | None = None,
        number: str = "",
    ) -> list[str]:
        """Send a message as a customer, *count* times.

        Args:
            sender: Their number.
            text: The text of the message.
            message: Any other message: `type`, and the content of that type.
            name: Their name.
            count: How many messages.
            group_id: The group of the message.
            number: The phone number id of the business number; the default number by default.

        Returns:
            The ids of the messages.

        Raises:
            GraphFault: The group does not exist, or the author is not in it.
        """
        content = message if message is not None else {"type": "text", "text": {"body": text or ""}}
        return self._world.inbound(
            sender, content, name=name, count=count, group_id=group_id, number=number
        )

    def add_media(self, content: bytes, mime_type: str) -> str:
        """Store a file as that of a customer, and return its id for a message.

        Raises:
            GraphFault: Graph would refuse the type or the size.
        """
        return self._world.media.add(content, mime_type)

    def join_group(self, group_id: str, wa_id: str) -> None:
        """Follow a group's invite link as a participant.

        Raises:
            GraphFault: The group does not exist.
        """
        self._world.join(group_id, wa_id)

    async def settle(self, timeout_seconds: float = 10.0) -> None:
        """Wait until every webhook was accepted.

        Raises:
            TimeoutError: Some were not.
        """
        async with asyncio.timeout(timeout_seconds):
            await self._world.settled()
