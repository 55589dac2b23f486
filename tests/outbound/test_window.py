import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from tests.outbound.windows import open_window
from wats.errors import IdempotencyConflict, WindowClosed
from wats.outbound.accept import Acceptor, SendRequest
from wats.outbound.messages import Outgoing
from wats.outbound.window import FREE_FORM, WindowGuard, is_certainly_closed, remaining_ms
from wats.store.sqlite import SQLiteStore
from wats.telemetry import Telemetry
from wats.testing import FakeClock

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
CUSTOMER = "15551230000"
TEXT = Outgoing(type="text", recipient=CUSTOMER)

Make = Callable[..., Acceptor]


@pytest.fixture
def guard(store: SQLiteStore, telemetry: Telemetry, clock: FakeClock) -> WindowGuard:
    return WindowGuard(store, telemetry, clock)


async def accept(acceptor: Acceptor, message: Outgoing | None = TEXT, **changes: Any) -> bytes:
    asked: dict[str, Any] = {"idempotency_key": None, "request_body": b"{}", **changes}
    request = SendRequest(payload=b"{}", scope="/messages", message=message, **asked)
    return (await acceptor.accept(request)).body


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        pytest.param(-timedelta(hours=1), False, id="from-the-future"),
        pytest.param(timedelta(hours=23), False, id="open"),
        pytest.param(timedelta(hours=24), False, id="closed-by-our-clock-only"),
        pytest.param(timedelta(hours=24, minutes=10, milliseconds=-1), False, id="last-doubt"),
        pytest.param(timedelta(hours=24, minutes=10), True, id="closed"),
        pytest.param(timedelta(days=30, milliseconds=-1), True, id="still-the-same-number"),
        pytest.param(timedelta(days=30), False, id="perhaps-a-user-id-since"),
    ],
)
def test_a_window_is_certainly_closed_only_without_any_doubt(
    age: timedelta, expected: bool
) -> None:
    assert is_certainly_closed(NOON + age, NOON) is expected


def test_an_unknown_customer_is_never_certainly_outside_of_the_window() -> None:
    assert not is_certainly_closed(NOON, None)


moments = st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(now=moments, last=moments)
def test_an_open_window_is_never_certainly_closed(now: datetime, last: datetime) -> None:
    assert not (remaining_ms(now, last) > 0 and is_certainly_closed(now, last))


@pytest.mark.parametrize("kind", sorted(FREE_FORM))
@pytest.mark.parametrize("key", [None, "key"])
async def test_a_free_form_message_outside_of_the_window_is_not_sent(
    make: Make, guard: WindowGuard, store: SQLiteStore, fake_graph: Any, kind: str, key: str | None
) -> None:
    await open_window(store, NOON - timedelta(days=2))

    with pytest.raises(WindowClosed):
        await accept(
            make(guard=guard), Outgoing(type=kind, recipient=CUSTOMER), idempotency_key=key
        )

    assert fake_graph.asked == []


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(Outgoing(type="template", recipient=CUSTOMER), id="template"),
        pytest.param(None, id="read-mark"),
        pytest.param(Outgoing(type="new_in_2027", recipient=CUSTOMER), id="unknown-type"),
        pytest.param(Outgoing(type="text", recipient=CUSTOMER, is_group=True), id="group"),
        pytest.param(Outgoing(type="text", recipient="US.abc"), id="user-id"),
        pytest.param(Outgoing(type="text", recipient="15551230001"), id="unknown-customer"),
    ],
)
async def test_a_message_that_may_need_no_window_is_sent(
    make: Make, guard: WindowGuard, store: SQLiteStore, fake_graph: Any, message: Outgoing | None
) -> None:
    for customer in (CUSTOMER, "US.abc"):
        await open_window(store, NOON - timedelta(days=2), customer)

    await accept(make(guard=guard), message)

    assert len(fake_graph.asked) == 1


async def test_a_window_belongs_to_one_number(
    make: Make, guard: WindowGuard, store: SQLiteStore, fake_graph: Any
) -> None:
    await open_window(store, NOON - timedelta(days=2))

    await accept(make(guard=guard), phone_number_id="15557654321")

    assert len(fake_graph.asked) == 1


async def test_a_window_that_cannot_be_read_refuses_nothing(
    make: Make, broken: Any, telemetry: Telemetry, clock: FakeClock, fake_graph: Any
) -> None:
    failing = await broken("last_inbound_at")
    await open_window(failing, NOON - timedelta(days=2))

    await accept(make(store=failing, guard=WindowGuard(failing, telemetry, clock)))

    assert len(fake_graph.asked) == 1
    assert telemetry.errors.snapshot() == {"StoreUnavailable": 1}


async def test_the_key_of_a_refused_message_can_be_used_again(
    make: Make, guard: WindowGuard, store: SQLiteStore, fake_graph: Any
) -> None:
    acceptor = make(guard=guard)
    await open_window(store, NOON - timedelta(days=2))
    with pytest.raises(WindowClosed):
        await accept(acceptor, idempotency_key="key")

    template = Outgoing(type="template", recipient=CUSTOMER)
    await accept(acceptor, template, idempotency_key="key", request_body=b'{"other":1}')

    assert len(fake_graph.asked) == 1
    with pytest.raises(IdempotencyConflict):
        await accept(acceptor, idempotency_key="key")


async def test_a_sent_message_is_replayed_after_the_window_has_closed(
    make: Make, guard: WindowGuard, store: SQLiteStore, clock: FakeClock, fake_graph: Any
) -> None:
    acceptor = make(guard=guard, idempotency_hours=72)
    await open_window(store, NOON)
    first = await accept(acceptor, idempotency_key="key")
    clock.advance(48 * 3600)

    assert await accept(acceptor, idempotency_key="key") == first
    assert len(fake_graph.asked) == 1


async def test_a_request_cancelled_before_the_graph_call_leaves_its_key_usable(
    make: Make, store: SQLiteStore, telemetry: Telemetry, fake_graph: Any
) -> None:
    class StuckGuard(WindowGuard):
        @override
        async def check(self, message: Outgoing, phone_number_id: str) -> None:
            reached.set()
            await asyncio.Event().wait()

    reached = asyncio.Event()
    stuck = make(guard=StuckGuard(store, telemetry))
    request = asyncio.create_task(accept(stuck, idempotency_key="key"))
    await reached.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request

    await accept(make(), idempotency_key="key")

    assert len(fake_graph.asked) == 1
