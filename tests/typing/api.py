"""The public names as a user's type checker sees them. Read by mypy, never run."""

import os
from collections.abc import Mapping
from typing import assert_type

import wats
from wats import (
    OTEL_ATTR,
    Attributes,
    BufferedSink,
    Handler,
    Message,
    Profile,
    Secrets,
    Status,
    Store,
    TelemetrySink,
    Update,
    UpdateKind,
    WatsApp,
    content,
    create_wats_service_app,
    load_config,
    open_store,
)
from wats.telemetry.otel import from_environment


class Sink:
    """As little as a sink needs."""

    def increment_counter(self, name: str, value: int, attributes: Attributes) -> None:
        assert_type(attributes, Mapping[str, str | int | float | bool])

    def record_histogram(self, name: str, value_seconds: float, attributes: Attributes) -> None:
        key: str = OTEL_ATTR.HTTP_ROUTE
        assert key in attributes


async def on_update(update: Update) -> None:
    assert_type(update.kind, UpdateKind)
    assert_type(update.message, Message | None)
    assert_type(update.status, Status | None)
    if update.message is not None and isinstance(update.message.content, content.Text):
        assert_type(update.message.content.body, str | None)


def to_opentelemetry() -> TelemetrySink:
    return from_environment(graph_url="http://127.0.0.1:8080")


def build() -> WatsApp:
    profile, secrets = load_config("wats.config.yaml", environ=os.environ)
    checked: Profile = profile
    assert_type(secrets, Secrets)
    store: Store = open_store("sqlite:///wats.db")
    sink: TelemetrySink = BufferedSink(Sink(), capacity=1000)
    handler: Handler = on_update
    app = create_wats_service_app(
        profile=checked,
        secrets=secrets,
        telemetry_sink=sink,
        persistence=store,
        handlers=[handler],
        enable_group_routes=False,
    )

    @app.on("message", UpdateKind.STATUS)
    async def also(update: Update) -> None: ...

    assert_type(wats.__version__, str)
    return app
