"""A self-hosted gateway for the WhatsApp Business Cloud API.

    profile, secrets = load_config("wats.config.yaml", environ=os.environ)
    app = create_wats_service_app(
        profile=profile, secrets=secrets, persistence=open_store("sqlite:///wats.db")
    )

    @app.on("message")
    async def answer(update: Update) -> None: ...

Importing this package reads no environment, opens nothing and starts nothing.
"""

from wats.config import Profile, Secrets, load_config
from wats.errors import ConfigError, GraphError, StoreError, WatsError
from wats.inbound import content
from wats.inbound.handlers import Handler
from wats.inbound.updates import Message, Sender, Status, Update
from wats.privacy import Secret
from wats.service import WatsApp, create_wats_service_app
from wats.store import Store
from wats.store.open import open_store
from wats.telemetry import OTEL_ATTR, Attributes, TelemetrySink, UpdateKind
from wats.telemetry.sinks.buffered import BufferedSink
from wats.version import __version__

__all__ = [
    "OTEL_ATTR",
    "Attributes",
    "BufferedSink",
    "ConfigError",
    "GraphError",
    "Handler",
    "Message",
    "Profile",
    "Secret",
    "Secrets",
    "Sender",
    "Status",
    "Store",
    "StoreError",
    "TelemetrySink",
    "Update",
    "UpdateKind",
    "WatsApp",
    "WatsError",
    "__version__",
    "content",
    "create_wats_service_app",
    "load_config",
    "open_store",
]
