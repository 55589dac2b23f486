from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from apsw import Connection

from tests.store.results import leased, payloads, waiting
from tests.store.sqlite.writers import Milliseconds, open_writer, transaction
from wats.store.admin import DEAD_LETTERS, OUTSTANDING
from wats.store.person import Person
from wats.store.records import (
    TRANSITIONS,
    Arrival,
    Consumer,
    Delivery,
    DeliveryState,
    Retention,
    Settlement,
)
from wats.store.sqlite import admin, deliveries, erasure, inbox, leader
from wats.store.sqlite.connection import Writer
from wats.store.sqlite.walk import Walk

MakeArrival = Callable[..., Arrival]
PlansOf = Callable[[Connection, list[str]], dict[str, str]]
FullScans = Callable[[dict[str, str]], dict[str, set[str]]]

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DONE, RETRY, DEAD, PENDING = (
    DeliveryState.DONE,
    DeliveryState.RETRY,
    DeliveryState.DEAD,
    DeliveryState.PENDING,
)


@pytest.fixture
def clock() -> Milliseconds:
    return Milliseconds()


@pytest.fixture
def writer(clock: Milliseconds) -> Iterator[Writer]:
    writer = open_writer(clock=clock)
    yield writer
    writer.close()


def walk_of_identities() -> Walk:
    return Walk("wats_inbox", "id", "received_at < ?2")


def receive(writer: Writer, arrivals: Sequence[Arrival], **slots: int) -> list[Delivery]:
    """Return the deliveries that were leased on arrival."""
    with transaction(writer):
        (results,) = inbox.receive(writer, [arrivals], slots)
    return leased(results)


def claim(writer: Writer, limit: int = 9, consumer: str = "handlers") -> Sequence[Delivery]:
    with transaction(writer):
        return deliveries.claim(writer, consumer, limit).deliveries


def settle(writer: Writer, claimed: Sequence[Delivery], *states: DeliveryState) -> None:
    """Settle each delivery with its state; all with the only one."""
    each = states if len(states) > 1 else states * len(claimed)
    settlements = [
        Settlement(delivery, state, 1.0 if state is DeliveryState.RETRY else 0.0)
        for delivery, state in zip(claimed, each, strict=True)
    ]
    with transaction(writer):
        deliveries.settle(writer, settlements)


def test_no_statement_of_the_inbox_scans_a_table_that_grows(
    writer: Writer,
    clock: Milliseconds,
    arrival: MakeArrival,
    trace: Callable[[Connection], list[str]],
    plans_of: PlansOf,
    full_scans: FullScans,
) -> None:
    statements = trace(writer)
    identities = walk_of_identities()
    known = arrival()
    receive(writer, [known, arrival(ordering_key=99), arrival(ordering_key=99)])
    receive(writer, [known, *(arrival(consumers=("a", "b")) for _ in range(4))], a=9, b=1)
    claimed = claim(writer)
    settle(writer, claimed, DEAD, DONE)
    settle(writer, claim(writer, 9, "b"), DONE, RETRY, PENDING)
    with transaction(writer):
        deliveries.renew(writer, claimed)
        leader.lead(writer, 1)
        identities.delete(writer, [1], NOON)
        admin.depth(writer, frozenset(writer.consumers), clock())
        admin.consumers(writer, frozenset(writer.consumers), clock())
        admin.pause(writer, "a", True)
        admin.pause(writer, "a", False)
        admin.page(writer, OUTSTANDING, 10, 0)
        admin.page(writer, DEAD_LETTERS, 10, 0)
        admin.read(writer, 1)
        admin.replay(writer, [1, 2, 3], "a")
        admin.retry_dead(writer, [1, 2, 3])
        admin.expedite(writer, [1, 2, 3])
        admin.discard(writer, [1, 2, 3])
        for phase in erasure.PHASES:
            erasure.find(writer, phase, 0, Person("15550001234"), ["1"])
    identities.next_rows(writer, NOON)
    clock.advance(10)
    with transaction(writer):
        deliveries.register(writer, [])
        admin.purge(writer, Retention(inbox=5, dead=5, unseen=5, messages=5), 10)
    writer.set_exec_trace(None)

    plans = plans_of(writer, [each for each in statements if each.split()[0] in PLANNED])
    assert len(plans) >= 25
    assert any("wats_deliveries_following" in plan for plan in plans.values())
    scanned = {table.split()[0] for each in full_scans(plans).values() for table in each}
    assert scanned == {"wats_message_buckets", "wats_numbers"}  # small, whatever the inbox has
    assert {
        statement
        for statement, plan in plans.items()
        if "TEMP B-TREE" in plan and "participant IN" not in statement
    } == set()


PLANNED = {"SELECT", "INSERT", "UPDATE", "DELETE"}


def steps_of(writer: Writer, run: Callable[[], object]) -> int:
    """Count the steps of SQLite's virtual machine, in hundreds."""
    hundreds = 0

    def count() -> int:
        nonlocal hundreds
        hundreds += 1
        return 0

    writer.set_progress_handler(count, 100)
    run()
    writer.set_progress_handler(None, 0)
    return hundreds


@pytest.mark.parametrize("backlog", ["many-conversations", "one-conversation", "retries", "leased"])
def test_every_operation_costs_the_same_with_a_large_backlog(
    writer: Writer, clock: Milliseconds, arrival: MakeArrival, backlog: str
) -> None:
    def work() -> None:
        updates = [arrival(consumers=("a",)) for _ in range(10)]
        updates += [arrival(consumers=("handlers",), ordering_key=7) for _ in range(2)]
        claimed = receive(writer, updates, a=5)
        claimed += claim(writer, 5, "a")
        claimed += claim(writer, 1)
        assert len(claimed) >= 10
        with transaction(writer):
            deliveries.renew(writer, claimed)
            admin.depth(writer, frozenset(writer.consumers), clock())
            deliveries.settle(writer, [Settlement(each, DONE) for each in claimed])

    work()
    with_none = steps_of(writer, work)
    keys = {"one-conversation": 1}.get(backlog, 5_000)
    receive(writer, [arrival(ordering_key=100 + n % keys) for n in range(5_000)])
    if backlog in ("retries", "leased"):
        claimed = claim(writer, 5_000)
        if backlog == "retries":
            settle(writer, claimed, RETRY)

    assert steps_of(writer, work) < 1.5 * with_none + 5


def test_a_payload_is_erased_with_its_delivery_and_kept_with_a_dead_letter(
    writer: Writer, arrival: MakeArrival
) -> None:
    receive(writer, [arrival(consumers=("a", "b"), payload=b"one"), arrival(payload=b"two")])

    def kept() -> list[bytes]:
        return [
            payload
            for (payload,) in writer.execute(
                "SELECT payload FROM wats_deliveries"
                " UNION ALL SELECT payload FROM wats_dead_deliveries"
            )
        ]

    assert kept() == [b"one", b"one", b"two"]
    settle(writer, claim(writer, consumer="a"), DONE)
    assert kept() == [b"one", b"two"]
    settle(writer, claim(writer, consumer="b"), DEAD)
    settle(writer, claim(writer), DONE)
    assert kept() == [b"one"]


def test_a_delivery_takes_only_steps_of_the_state_table(
    writer: Writer, clock: Milliseconds, arrival: MakeArrival
) -> None:
    steps: set[tuple[str, str]] = set()
    before = None

    def note() -> None:
        nonlocal before
        row = writer.execute("SELECT state FROM wats_outstanding ORDER BY id DESC").fetchone()
        dead = writer.execute("SELECT 1 FROM wats_dead_deliveries").fetchone()
        after = str(row[0]) if row else "dead" if dead else "done"
        if before is not None:
            steps.add((before, after))
        before = after

    for last in (DONE, DEAD):
        before = None
        receive(writer, [arrival()])
        note()
        for state in (PENDING, RETRY, None, RETRY, PENDING, last):
            claimed = claim(writer)
            note()
            clock.advance(60)
            if state is not None:  # otherwise its lease expires
                settle(writer, claimed, state)
                note()
            clock.advance(60)
    with transaction(writer):
        admin.retry_dead(writer, [2])
    note()
    settle(writer, claim(writer), DONE)
    before = None
    deliveries.register(writer, [Consumer(name="handlers", batch=2)])
    receive(writer, [arrival(ordering_key=7), arrival(ordering_key=7)])
    note()
    (head,) = claim(writer)
    with transaction(writer):
        deliveries.settle(writer, [Settlement(head, DONE, also=head.followers)])
    note()

    found = {(DeliveryState(old), DeliveryState(new)) for old, new in steps}
    assert found == {(old, new) for old in TRANSITIONS for new in TRANSITIONS[old]}


def test_no_id_is_given_twice(writer: Writer, arrival: MakeArrival) -> None:
    first = receive(writer, [arrival(), arrival()], handlers=2)
    settle(writer, first, DONE)
    writer.execute("DELETE FROM wats_inbox")

    second = receive(writer, [arrival(), arrival()], handlers=2)

    assert [each.id for each in (*first, *second)] == [1, 2, 3, 4]


def test_the_lease_of_a_delivery_that_ended_has_no_effect_on_later_ones(
    writer: Writer, clock: Milliseconds, arrival: MakeArrival
) -> None:
    lost = receive(writer, [arrival()], handlers=1)
    clock.advance(60)
    settle(writer, claim(writer), DONE)
    receive(writer, [arrival()], handlers=1)

    with transaction(writer):
        assert list(deliveries.renew(writer, lost)) == lost
        assert list(deliveries.settle(writer, [Settlement(lost[0], DONE)]).done) == []

    assert admin.depth(writer, frozenset(writer.consumers), clock()).total.leased == 1


def test_a_batch_of_settlements_ends_each_held_lease_once_and_no_other(
    writer: Writer, clock: Milliseconds, arrival: MakeArrival
) -> None:
    lost = receive(writer, [arrival(), arrival(ordering_key=7)], handlers=2)
    receive(writer, [arrival(ordering_key=7, payload=b"next")])
    (other,) = receive(writer, [arrival()], handlers=1)
    clock.advance(60)
    again = claim(writer, 2)
    assert [each.id for each in again] == [each.id for each in lost]
    settle(writer, again[:1], DONE)

    ended = [*lost, again[1], other, again[1], again[0]]
    with transaction(writer):
        settled = deliveries.settle(writer, [Settlement(each, DONE) for each in ended])

    assert sorted(settled.done) == [again[1].update_id, other.update_id]
    assert settled.due == {"handlers"}
    assert payloads(claim(writer)) == [b"next"]
    total = admin.depth(writer, frozenset(writer.consumers), clock()).total
    assert (total.pending, total.leased) == (0, 1)


def test_the_webhooks_of_a_transaction_share_their_slots(
    writer: Writer, arrival: MakeArrival
) -> None:
    known = arrival()
    settle(writer, receive(writer, [known], handlers=1), DONE)
    calls = [[known], [arrival()], [arrival()], [arrival()], []]

    with transaction(writer):
        results = inbox.receive(writer, calls, {"handlers": 2, "a": 1})

    assert [waiting(each) for each in results] == [[None], [0], [0], [1], []]


def test_redeliveries_are_known_in_a_transaction_that_stores_nothing_new(
    writer: Writer, arrival: MakeArrival
) -> None:
    known = [arrival(consumers=()), arrival(consumers=())]
    receive(writer, known)
    receive(writer, [arrival(consumers=("a", "b")) for _ in range(9)])  # moves last_insert_rowid

    with transaction(writer):
        (results,) = inbox.receive(writer, [[*known, known[0]]])

    assert waiting(results) == [None, None, None]


def test_a_long_conversation_is_handled_in_order_with_promotions_one_by_one(
    writer: Writer, arrival: MakeArrival
) -> None:
    updates = [arrival(ordering_key=7) for _ in range(300)]
    receive(writer, updates[:100])
    handled: list[bytes] = []

    while claimed := claim(writer):
        handled += payloads(claimed)
        settle(writer, claimed, DONE)
        if len(handled) % 50 == 0 and len(handled) <= 100:
            start = 2 * len(handled)
            receive(writer, updates[start : start + 100])

    assert handled == [update.payload for update in updates]


def test_a_rolled_back_transaction_leaves_counters_and_rows_as_they_were(
    writer: Writer, clock: Milliseconds, arrival: MakeArrival
) -> None:
    receive(writer, [arrival(), arrival(ordering_key=7), arrival(ordering_key=7)])
    claimed = claim(writer)
    before = admin.depth(writer, frozenset(writer.consumers), clock())

    def change_everything() -> None:
        with transaction(writer):
            inbox.receive(writer, [[arrival()]], {"handlers": 1})
            first, second = claimed
            deliveries.settle(writer, [Settlement(first, DONE), Settlement(second, DEAD)])
            deliveries.claim(writer, "handlers", 9)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_everything()
    assert admin.depth(writer, frozenset(writer.consumers), clock()) == before

    settle(writer, claimed, DONE)
    assert admin.depth(writer, frozenset(writer.consumers), clock()).total.pending == 1
    assert writer.execute("SELECT count(*) FROM wats_outstanding").get == 1


@pytest.mark.parametrize("last", [DONE, PENDING, RETRY])
def test_other_processes_are_woken_by_commits_that_leave_something_to_claim(
    clock: Milliseconds, arrival: MakeArrival, last: DeliveryState
) -> None:
    calls: list[int] = []
    writer = open_writer(clock=clock, on_work=lambda: calls.append(len(calls)))

    claimed = receive(writer, [arrival()], handlers=1)
    assert calls == []  # leased on arrival
    receive(writer, [arrival()], handlers=0)
    assert len(calls) == 1
    settle(writer, claimed, last)
    assert len(calls) == 1 + (last is PENDING)
    writer.execute("BEGIN")
    inbox.receive(writer, [[arrival()]], {})
    writer.roll_back()
    with transaction(writer):
        writer.execute("SELECT 1")
    assert len(calls) == 1 + (last is PENDING)
    writer.close()


def test_an_identity_is_purged_by_the_time_at_which_its_update_was_received(
    writer: Writer, arrival: MakeArrival
) -> None:
    old = arrival(received_at=NOON - timedelta(seconds=1))
    receive(writer, [old, arrival(received_at=NOON)])
    identities = walk_of_identities()
    ids = identities.next_rows(writer, NOON)

    with transaction(writer):
        assert identities.delete(writer, [*ids, 2], NOON) == 1

    assert writer.execute("SELECT key FROM wats_inbox").fetchall() != [(old.key,)]
