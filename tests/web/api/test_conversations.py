from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pywa.errors import ReEngagementMessage, WhatsAppError

from tests.outbound.windows import open_window
from wats.errors import WindowClosed
from wats.graph.errors import ADVICE, Action
from wats.web.api.conversations import WindowView, window_at

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
CLOSED = b'{"open":false,"lastInboundAt":null,"expiresAt":null,"remainingMs":0}'


def test_an_unknown_window_is_closed() -> None:
    assert window_at(NOON, None) == WindowView(
        open=False, last_inbound_at=None, expires_at=None, remaining_ms=0
    )


@pytest.mark.parametrize(
    ("age", "is_open", "remaining_ms"),
    [
        pytest.param(timedelta(), True, 86_400_000, id="now"),
        pytest.param(timedelta(hours=23), True, 3_600_000, id="an-hour-left"),
        pytest.param(timedelta(hours=24, milliseconds=-1), True, 1, id="a-millisecond-left"),
        pytest.param(timedelta(hours=24), False, 0, id="a-day-ago"),
        pytest.param(timedelta(days=9), False, 0, id="long-ago"),
        pytest.param(-timedelta(hours=1), True, 86_400_000, id="from-the-future"),
    ],
)
def test_a_window_is_open_for_less_than_a_day(
    age: timedelta, is_open: bool, remaining_ms: int
) -> None:
    view = window_at(NOON + age, NOON)

    assert (view.open, view.remaining_ms) == (is_open, remaining_ms)
    assert view.last_inbound_at == "2026-11-22T12:00:00.000Z"
    assert view.expires_at == "2026-11-23T12:00:00.000Z"


moments = st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(now=moments, last=moments)
def test_a_window_is_open_as_long_as_time_remains(now: datetime, last: datetime) -> None:
    view = window_at(now, last)

    assert view.open is (view.remaining_ms > 0)
    assert 0 <= view.remaining_ms <= 86_400_000


@pytest.mark.parametrize("phone", ["15551230000", "+15551230000", "%2B15551230000"])
async def test_the_window_of_a_customer_is_returned(service: Any, phone: str) -> None:
    await open_window(service.store, NOON, "15551230000")

    answer = await service.ask("GET", f"/api/conversations/{phone}/window")

    assert answer.status == 200
    assert list(answer.json) == ["open", "lastInboundAt", "expiresAt", "remainingMs"]
    assert answer.json["lastInboundAt"] == "2026-11-22T12:00:00.000Z"


async def test_a_window_with_another_number_is_not_ours(service: Any) -> None:
    await open_window(service.store, NOON, "15551230000", number="15550000000")

    answer = await service.ask("GET", "/api/conversations/15551230000/window")

    assert answer.body == CLOSED


@pytest.mark.parametrize(
    ("phone", "message"),
    [
        ("%zz", "phone path segment is invalid."),
        ("%ff", "phone path segment is invalid."),
        ("abc", "phone must be digits with an optional leading +, 1..15 characters."),
        ("1%2F2", "phone must be digits with an optional leading +, 1..15 characters."),
        ("1/2", "phone must be digits with an optional leading +, 1..15 characters."),
        ("+", "phone must be digits with an optional leading +, 1..15 characters."),
        ("1" * 16, "phone must be digits with an optional leading +, 1..15 characters."),
    ],
)
async def test_an_invalid_phone_number_is_refused(service: Any, phone: str, message: str) -> None:
    answer = await service.ask("GET", f"/api/conversations/{phone}/window")

    assert (answer.status, answer.code) == (400, "malformed_path")
    assert answer.json["error"]["message"] == message


async def test_a_window_without_a_customer_is_not_found(service: Any) -> None:
    answer = await service.ask("GET", "/api/conversations//window")

    assert (answer.status, answer.code) == (404, "not_found")
    assert answer.json["error"]["message"] == "Route not found."


@pytest.mark.parametrize("has_store", [False])
async def test_windows_need_a_store(service: Any) -> None:
    answer = await service.ask("GET", "/api/conversations/abc/window")

    assert (answer.status, answer.code) == (503, "persistence_not_configured")
    assert answer.json["error"]["message"] == (
        "Conversation window state requires a persistence store."
    )


async def test_a_store_that_cannot_be_read_is_reported(service: Any) -> None:
    await service.store.close()

    answer = await service.ask("GET", "/api/conversations/1555/window")

    assert (answer.status, answer.code) == (503, "conversation_window_unavailable")


async def test_unauthenticated_requests_are_refused(service: Any) -> None:
    answer = await service.ask("GET", "/api/conversations/1555/window", token=None)

    assert (answer.status, answer.code) == (401, "unauthorized")


GUARDED = [
    pytest.param("/api/messages/text", {"text": "Hello"}, id="text"),
    pytest.param(
        "/api/messages", {"type": "location", "latitude": 1, "longitude": 2}, id="composer"
    ),
    pytest.param(
        "/api/messages",
        {"messaging_product": "whatsapp", "type": "text", "text": {"body": "Hello"}},
        id="graph",
    ),
]


@pytest.mark.parametrize("has_guard", [True])
@pytest.mark.parametrize(("path", "body"), GUARDED)
async def test_the_guard_refuses_messages_outside_of_the_window(
    service: Any, path: str, body: dict[str, object]
) -> None:
    await open_window(service.store, NOON, "15551230000")
    service.clock.advance(25 * 3600)

    answer = await service.ask("POST", path, {"to": "+1 555 123-0000", **body}, key="order-1")

    assert (answer.status, answer.code) == (409, "window_closed")
    error = answer.json["error"]
    assert (error["outcome"], error["retryable"]) == ("not_sent", False)
    assert (error["category"], error["advice"]) == ("send_message", ADVICE[Action.USE_TEMPLATE])
    assert service.graph.asked == []
    assert "15551230000" not in answer.body.decode()
    assert service.log == []


@pytest.mark.parametrize("has_guard", [True])
async def test_a_client_of_graph_is_refused_by_the_guard_as_by_meta(service: Any) -> None:
    await open_window(service.store, NOON, "15551230000")
    service.clock.advance(25 * 3600)
    text = {"messaging_product": "whatsapp", "type": "text", "text": {"body": "Hello"}}

    answer = await service.ask(
        "POST", "/api/graph/v25.0/15551234567/messages", {"to": "15551230000", **text}
    )

    error = answer.json["error"]
    assert (answer.status, error["wats"]["code"]) == (409, "window_closed")
    assert isinstance(WhatsAppError.from_dict(error), ReEngagementMessage)
    assert service.graph.asked == []


@pytest.mark.parametrize("has_guard", [True])
async def test_the_guard_refuses_messages_of_the_application_too(service: Any) -> None:
    await open_window(service.store, NOON, "15551230000")
    service.clock.advance(25 * 3600)

    with pytest.raises(WindowClosed):
        await service.app.send({"to": "15551230000", "type": "text", "text": {"body": "Hello"}})

    assert service.graph.asked == []


@pytest.mark.parametrize("has_guard", [True])
@pytest.mark.parametrize(("path", "body"), GUARDED)
async def test_the_guard_permits_messages_while_the_window_is_open(
    service: Any, path: str, body: dict[str, object]
) -> None:
    await open_window(service.store, NOON, "15551230000")

    answer = await service.ask("POST", path, {"to": "15551230000", **body})

    assert answer.status == 200


@pytest.mark.parametrize(("path", "body"), GUARDED)
async def test_without_the_guard_meta_decides_about_the_window(
    service: Any, path: str, body: dict[str, object]
) -> None:
    await open_window(service.store, NOON, "15551230000")
    service.clock.advance(25 * 3600)

    answer = await service.ask("POST", path, {"to": "15551230000", **body})

    assert answer.status == 200
