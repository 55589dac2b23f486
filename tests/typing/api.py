"""The public names as a user's type checker sees them. Read by mypy, never run."""

import asyncio
import os
from collections.abc import Mapping
from typing import assert_never, assert_type

import wats
from wats import (
    OTEL_ATTR,
    Attributes,
    BufferedSink,
    Handler,
    Message,
    Profile,
    Secrets,
    Sender,
    Sent,
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
from wats.content import (
    AccountUpdate,
    AnyContent,
    ButtonReply,
    Customer,
    FlowEvent,
    Interactive,
    Location,
    Media,
    NumberQuality,
    Reaction,
    Text,
)
from wats.inbound.message_types import AnyMessage, InboundText
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
    assert_type(update.message, AnyMessage | None)
    assert_type(update.status, Status | None)
    assert_type(update.content, AnyContent | None)
    assert_type(update.customer, Customer | None)
    if update.message is not None and isinstance(update.message.content, content.Text):
        assert_type(update.message.content.body, str)


async def on_message(update: Update) -> None:
    match update.message:
        case Text(body=body):
            assert_type(body, str)
            assert_type(await update.reply(body, quote=True), Sent)
        case Location(latitude=latitude, sender=Sender(name=name)):
            assert_type((latitude, name), tuple[float | None, str | None])
        case Media() as media:
            assert_type((media.id, media.media_id), tuple[str, str | None])
            assert_type(media.content, Media)
        case Interactive(button_reply=ButtonReply(title=title)):
            assert_type(title, str | None)
        case Message(type=kind):
            assert_type(kind, str | None)
        case None:
            assert_type(update.message, None)
        case _:
            assert_never(update.message)


async def on_instance(update: Update) -> None:
    message = update.message
    if isinstance(message, Text):
        assert_type(message, InboundText)
        await update.reply_template("order_ready", "en_US", [message.body])
        await update.mark_read(typing=True)
        await update.reply({"type": "image", "image": {"link": "https://example.com/a.png"}})
    if isinstance(message, Reaction):
        assert_type(message.sender, Sender)
    await update.reply(5)  # type: ignore[arg-type]
    await update.replay("Hi")  # type: ignore[attr-defined]


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


def select(app: WatsApp) -> None:
    @app.on("message", content=Text, where=lambda update: update.content.body == "stop")
    async def on_text(update: Update[Text]) -> None:
        assert_type(update.content, Text)
        assert_type(update.content.body, str)

    @app.on(content=(Text, Location))
    async def on_either(update: Update[Text | Location]) -> None:
        match update.content:
            case Text(body=body):
                assert_type(body, str)
            case Location(latitude=latitude):
                assert_type(latitude, float | None)
            case _:
                assert_never(update.content)

    @app.on(content=(AccountUpdate, NumberQuality, FlowEvent))
    async def on_account(update: Update[AccountUpdate | NumberQuality | FlowEvent]) -> None:
        assert_type(update.content.event, str | None)


def call_as_a_test_does(app: WatsApp, update: Update, text: Update[Text]) -> None:
    @app.on("message")
    async def on_any(update: Update) -> Sent:
        return await update.reply("Hello")

    @app.on("message", content=Text)
    async def on_text(update: Update[Text]) -> int:
        return len(update.content.body)

    @app.on("message", content=(Text, Location))
    async def on_either(update: Update[Text | Location]) -> None: ...

    assert_type(asyncio.run(on_any(update)), Sent)
    assert_type(asyncio.run(on_text(text)), int)
    asyncio.run(on_either(text))


def select_more(app: WatsApp) -> None:
    @app.on("message", content=(Text, Media))
    async def on_any(update: Update) -> None:
        if isinstance(update.content, Media):
            assert_type(update.content, Media)

    @app.on(content=Text)  # type: ignore[arg-type]
    async def on_another(update: Update[Media]) -> None: ...

    app.on(content="text")  # type: ignore[call-overload]
    app.on(content=Text, where=lambda update: update.content.latitude == 0)  # type: ignore[attr-defined]
