"""A service and a fake Meta in one process, for a first look: nothing is kept."""

import secrets
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType

from wats.config import (
    GraphConfig,
    PersistenceConfig,
    Profile,
    Secrets,
    ServiceConfig,
    WebhookConfig,
    WhatsAppConfig,
    database_of,
    with_overrides,
)
from wats.log import print_line, write_text
from wats.privacy import Secret
from wats.service import WatsApp, create_wats_service_app
from wats.simulator import Simulator, SimulatorSettings
from wats.store.open import open_store

WABA_ID = "100000000000001"
PHONE_NUMBER_ID = "200000000000002"
HOOK = "/webhooks/whatsapp"
PORT = 8787


class Sandbox:
    """An async context in which `app` can be served with `profile`; `greet` explains its use.

    With *show*, each message on the customers' phones is printed.
    """

    def __init__(self, *, host: str | None, port: int | None, show: bool = False) -> None:
        self._host = host if host is not None else "127.0.0.1"
        self._port = port if port is not None else PORT
        self._show = show
        self._token = secrets.token_urlsafe(24)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Sandbox":
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="wats-sandbox-"))
        own = Secrets(
            access_token=Secret(secrets.token_urlsafe(24)),
            verify_token=Secret(secrets.token_urlsafe(24)),
            app_secrets=(Secret(secrets.token_hex(16)),),
            bearer_tokens=(Secret(self._token),),
        )
        settings = SimulatorSettings(
            app_secret=own.app_secrets[0],
            verify_token=own.verify_token,
            access_token=own.access_token,
            waba_id=WABA_ID,
            phone_number_id=PHONE_NUMBER_ID,
        )
        self._simulator = await self._stack.enter_async_context(Simulator(settings))
        if self._show:
            self._simulator.show(print_line)
        profile = _profile(self._simulator.url, Path(folder) / "sandbox.db")
        self.profile: Profile = with_overrides(profile, host=self._host, port=self._port)
        store = open_store(database_of(self.profile, own)[0] or "")
        self.app: WatsApp = create_wats_service_app(
            profile=self.profile, secrets=own, persistence=store
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def greet(self, url: str) -> None:
        """Connect the fake Meta to the service at *url*, and print instructions on stderr."""
        self._simulator.set_webhook(url + HOOK)
        write_text(_GREETING.format(url=url, token=self._token, meta=self._simulator.url))


def _profile(graph_url: str, database: Path) -> Profile:
    return Profile(
        name="sandbox",
        graph=GraphConfig(api_version="v25.0", base_url=graph_url),
        whatsapp=WhatsAppConfig(waba_id=WABA_ID, phone_number_id=PHONE_NUMBER_ID),
        webhook=WebhookConfig(path=HOOK),
        service=ServiceConfig(host="127.0.0.1", port=PORT, api_prefix="/api", drain_seconds=0.0),
        persistence=PersistenceConfig(url=f"sqlite:///{database}"),
    )


_GREETING = """\
The sandbox is running at {url}, with a fake Meta. In another terminal, try:

  export TOKEN={token}
  # send a message; the fake Meta reports its statuses in signed webhooks
  curl -s {url}/api/messages/text -H "Authorization: Bearer $TOKEN" \\
    -H 'Idempotency-Key: first' -d '{{"to": "15550001234", "text": "Hello"}}'
  # simulate a message from a customer
  curl -s {meta}/_simulator/inbound -d '{{"from": "15550001234", "text": "Hi!"}}'
  # list the messages on the customers' phones
  curl -s {meta}/_simulator/messages
  # list both messages as your application sees them, and read the metrics
  curl -s {url}/api/messages -H "Authorization: Bearer $TOKEN"
  curl -s {url}/metrics -H "Authorization: Bearer $TOKEN"

Stop the sandbox with Ctrl-C; all data is discarded.
"""
