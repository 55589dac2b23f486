from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.inbound.test_receive import Inlet
from wats.content import AccountUpdate, Edit, Media, Part, Status, TemplateStatus, Text
from wats.errors import ConfigError
from wats.inbound.failures import function_of
from wats.inbound.filters import kinds_of
from wats.inbound.handlers import Handlers
from wats.inbound.message_types import InboundText
from wats.inbound.updates import Update
from wats.store import Store
from wats.store.open import open_store
from wats.store.records import Consumer
from wats.telemetry.contract.values import UpdateKind
from wats.testing import sign

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
STOP = {"id": "wamid.1", "from": "15550001234", "type": "text", "text": {"body": "stop"}}
PICTURE = {"id": "wamid.2", "from": "15550001234", "type": "image", "image": {"id": "1"}}


def update_of(raw: dict[str, Any], **changes: Any) -> Update:
    members = {"kind": UpdateKind.MESSAGE, "field": "messages", "phone_number_id": "2", **changes}
    return Update(
        key="00" * 16, waba_id="1", occurred_at=NOON, received_at=NOON, raw=raw, **members
    )


async def handle(update: Update) -> None: ...


def selects(raw: dict[str, Any], **options: Any) -> bool:
    handlers = Handlers()
    handlers.add(handle, **options)
    return bool(handlers.consumers(update_of(raw)))


def is_stop(update: Update) -> bool:
    return isinstance(update.content, Text) and update.content.body == "stop"


@pytest.mark.parametrize(
    ("options", "texts", "pictures"),
    [
        ({}, True, True),
        ({"content": (Text,)}, True, False),
        ({"content": (Edit, Media)}, False, True),
        ({"where": is_stop}, True, False),
        ({"where": lambda update: update.phone_number_id == "2"}, True, True),
        ({"where": lambda update: update.phone_number_id == "3"}, False, False),
        ({"content": (Media,), "where": is_stop}, False, False),
        ({"where": lambda _: 1 / 0}, True, True),
    ],
)
def test_a_handler_gets_the_updates_that_its_filter_accepts(options, texts, pictures) -> None:
    assert selects(STOP, **options) is texts
    assert selects(PICTURE, **options) is pictures


def test_a_text_whose_content_cannot_be_read_is_no_text() -> None:
    assert not selects({**STOP, "text": "no object"}, content=(Text,))


def test_without_kinds_a_handler_has_all_kinds_that_can_have_its_content() -> None:
    kinds = kinds_of(frozenset(UpdateKind), (TemplateStatus, Status))

    assert kinds == {
        UpdateKind.TEMPLATE,
        UpdateKind.STATUS,
        UpdateKind.PAYMENT_STATUS,
        UpdateKind.STANDBY,
    }


async def async_predicate(update: Update) -> bool:
    return True


@pytest.mark.parametrize(
    ("kinds", "options", "reason"),
    [
        (
            [UpdateKind.STATUS],
            {"content": (Text,)},
            "Text is the content of no update",
        ),
        (
            [UpdateKind.MESSAGE],
            {"content": (Text, AccountUpdate)},
            "AccountUpdate is the content of no update",
        ),
        (
            [UpdateKind.MESSAGE, UpdateKind.FLOW],
            {"content": (Text,)},
            "the kind flow never has such content",
        ),
        (UpdateKind, {"content": ("text",)}, "content must be a class of Update.content"),
        (UpdateKind, {"content": ({},)}, "content must be a class of Update.content"),
        (UpdateKind, {"content": (Part,)}, "content must be a class of Update.content"),
        (UpdateKind, {"content": (InboundText,)}, "content must be a class of Update.content"),
        (UpdateKind, {"where": "text"}, "where must be a plain function of one argument"),
        (UpdateKind, {"where": lambda: True}, "where must be a plain function of one argument"),
        (UpdateKind, {"where": async_predicate}, "where must be a plain function"),
    ],
)
def test_a_filter_that_can_never_match_is_refused(kinds, options, reason) -> None:
    with pytest.raises(ConfigError, match=reason):
        Handlers().add(handle, kinds, **options)


def body_of(*raws: dict[str, Any]) -> bytes:
    timed = [{**raw, "timestamp": "1750000000"} for raw in raws]
    value = {"metadata": {"phone_number_id": "2"}, "messages": timed}
    change = {"field": "messages", "value": value}
    return msgspec.json.encode(
        {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}
    )


async def received(store: Store | None, handlers: Handlers, *raws: dict[str, Any]) -> None:
    inlet = Inlet(store, handlers)
    for body in (body_of(*raws), body_of(STOP), body_of(PICTURE)):
        await inlet.receiver.receive(body, sign(body))


async def test_a_rejected_update_is_recorded_and_no_delivery_of_the_handler() -> None:
    handlers = Handlers()
    handlers.add(handle, [UpdateKind.MESSAGE], name="texts", content=(Text,))
    handlers.add(handle, [UpdateKind.MESSAGE], name="edits", content=(Edit,))
    store = open_store("sqlite:///:memory:")
    await store.open()
    await store.register([Consumer(name=name) for name in handlers.names])

    await received(store, handlers, PICTURE, {**STOP, "id": "wamid.3"})

    depth = await store.depth()
    assert depth.consumers["texts"].pending == 2
    assert depth.total.pending == 2
    assert await store.get_message("wamid.2") is not None
    await store.close()


async def test_without_a_store_the_same_updates_are_handled() -> None:
    found: list[str | None] = []

    async def note(update: Update[Text]) -> None:
        found.append(update.content.body)

    handlers = Handlers()
    handlers.add(note, content=(Text,), where=is_stop)

    await received(None, handlers, PICTURE, {**STOP, "id": "wamid.3", "text": {"body": "go"}})

    assert found == ["stop"]


async def test_a_stored_delivery_that_the_filter_rejects_now_is_not_passed_to_the_handler() -> None:
    found: list[Update] = []

    async def note(update: Update) -> None:
        found.append(update)

    handlers = Handlers()
    handlers.add(note, name="it", where=is_stop)
    guarded = handlers["it"].handler

    await guarded(update_of(PICTURE))
    await guarded(update_of(STOP))

    assert found == [update_of(STOP)]


async def test_a_predicate_that_fails_is_a_failure_of_its_handler() -> None:
    handlers = Handlers()
    handlers.add(handle, name="it", where=lambda _: 1 / 0)
    guarded = handlers["it"].handler

    with pytest.raises(ZeroDivisionError):
        await guarded(update_of(STOP))

    assert function_of(guarded) is handle


def test_a_predicate_that_exits_ends_nothing_at_arrival() -> None:
    def leave(_: Update) -> bool:
        raise SystemExit

    assert selects(STOP, where=leave)
