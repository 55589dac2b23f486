"""A self-hosted gateway for the WhatsApp Business Cloud API.

    profile, secrets = load_config("wats.config.yaml", environ=os.environ)
    app = create_wats_service_app(
        profile=profile, secrets=secrets, persistence=open_store("sqlite:///wats.db")
    )

    @app.on("message")
    async def answer(update: Update) -> None:
        await update.reply("Thank you!")

Importing this package reads no environment, opens nothing and starts nothing. A public name loads
its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from wats.version import __version__

if TYPE_CHECKING:
    from wats import content
    from wats.config import Profile, Secrets, load_config
    from wats.errors import ConfigError, GraphError, StoreError, WatsError
    from wats.inbound.events import Status
    from wats.inbound.handlers import Handler, RetryLater
    from wats.inbound.message_types import Message, Sender
    from wats.inbound.updates import Update
    from wats.privacy import Secret
    from wats.sends import Sent
    from wats.service import WatsApp, create_wats_service_app
    from wats.store import Store
    from wats.store.open import open_store
    from wats.telemetry import (
        OTEL_ATTR,
        Attributes,
        Span,
        SpanContext,
        TelemetrySink,
        UpdateKind,
        current_span,
    )
    from wats.telemetry.sinks.buffered import BufferedSink

__all__ = [
    "OTEL_ATTR",
    "Attributes",
    "BufferedSink",
    "ConfigError",
    "GraphError",
    "Handler",
    "Message",
    "Profile",
    "RetryLater",
    "Secret",
    "Secrets",
    "Sender",
    "Sent",
    "Span",
    "SpanContext",
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
    "current_span",
    "load_config",
    "open_store",
]

_MODULES = {
    "Attributes": "wats.telemetry",
    "BufferedSink": "wats.telemetry.sinks.buffered",
    "ConfigError": "wats.errors",
    "GraphError": "wats.errors",
    "Handler": "wats.inbound.handlers",
    "Message": "wats.inbound.message_types",
    "OTEL_ATTR": "wats.telemetry",
    "Profile": "wats.config",
    "RetryLater": "wats.inbound.handlers",
    "Secret": "wats.privacy",
    "Secrets": "wats.config",
    "Sender": "wats.inbound.message_types",
    "Sent": "wats.sends",
    "Span": "wats.telemetry",
    "SpanContext": "wats.telemetry",
    "Status": "wats.inbound.events",
    "Store": "wats.store",
    "StoreError": "wats.errors",
    "TelemetrySink": "wats.telemetry",
    "Update": "wats.inbound.updates",
    "UpdateKind": "wats.telemetry",
    "WatsApp": "wats.service",
    "WatsError": "wats.errors",
    "content": "wats.content",
    "create_wats_service_app": "wats.service",
    "current_span": "wats.telemetry",
    "load_config": "wats.config",
    "open_store": "wats.store.open",
}
"""The module of each public name; a public name may be a module itself."""


def __getattr__(name: str) -> object:
    """Load the public name *name*."""
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    module = import_module(_MODULES[name])
    value = module if module.__name__.endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
