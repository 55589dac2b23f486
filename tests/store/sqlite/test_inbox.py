from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from apsw import Connection
from hypothesis import given, settings
from hypothesis import strategies as st
from wats.store.sqlite.first_leases import MOST

from wats.store.migrate import load_migrations
from wats.store.records import (
    TRANSITIONS,
    Arrival,
    Delivery,
    DeliveryState,
    Kept,
    Settled,
    Settlement,
)
from wats.store.sqlite import inbox
from wats.store.sqlite.connection import connect_writer, migrate
from wats.store.sqlite.walk import Walk

MakeArrival = Callable[..., Arrival]
PlansOf = Callable[[Connection, list[str]], dict[str, str]]
ReadAsAWhole = Callable[[dict[str, str]], dict[str, set[str]]]

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def connect() -> Connection:
    connection = connect_writer(":memory:", 1)
    migrate(connection, load_migrations("sqlite"))
    return connection


@pytest.fixture
def connection() -> Iterator[Connection]:
    connection = connect()
    yield connection
    connection.close()


def test_no_statement_of_the_inbox_reads_a_backlog(
    connection: Connection,
    arrival: MakeArrival,
    trace: Callable[[Connection], list[str]],
    plans_of: PlansOf,
    read_as_a_whole: ReadAsAWhole,
) -> None:
    statements = trace(connection)
    inbox.receive(connection, [arrival(lane=1), arrival(lane=1), arrival(lane=2)])
    claimed = inbox.claim(connection, targets=["handlers"], limit=9, lease_seconds=1, now=NOON)
    inbox.renew(connection, claimed, lease_seconds=1, now=NOON)
    claimed = [*claimed, *leased(inbox.receive(connection, [arrival(lane=3, lease_seconds=1.0)]))]
    inbox.renew(connection, claimed[-1:], lease_seconds=1, now=NOON)
    states = [DeliveryState.DONE, DeliveryState.RETRY, DeliveryState.DEAD, DeliveryState.RETRY]
    inbox.settle(connection, [ending(*pair) for pair in zip(claimed, states, strict=True)], NOON)
    given_back = inbox.claim(connection, targets=["handlers"], limit=9, lease_seconds=1, now=NOON)
    inbox.settle(connection, [ending(d, DeliveryState.PENDING) for d in given_back], NOON)
    inbox.purge(connection, [1], NOON)
    inbox.purge_dead(connection, NOON + timedelta(1), 10)
    Walk(inbox.OLD_UPDATES, 10).next_rows(connection, NOON)
    connection.set_exec_trace(None)

    plans = plans_of(connection, statements)
    assert len(plans) >= 20
    assert read_as_a_whole(plans) == {}
    assert {statement for statement, plan in plans.items() if "TEMP B-TREE" in plan} == set()


def ending(delivery: Delivery, state: DeliveryState) -> Settlement:
    return Settlement(
        delivery=delivery,
        state=state,
        due_at=NOON,
    )


def steps_of(connection: Connection, run: Callable[[], object]) -> int:
    """Count how often SQLite made a hundred steps of its virtual machine."""
    hundreds = 0

    def count() -> int:
        nonlocal hundreds
        hundreds += 1
        return 0

    connection.set_progress_handler(count, 100)
    run()
    connection.set_progress_handler(None, 0)
    return hundreds


def test_a_claim_costs_the_same_behind_a_large_backlog(
    connection: Connection, arrival: MakeArrival
) -> None:
    def receive_and_claim() -> None:
        inbox.receive(connection, [arrival(lane=10**6 + n) for n in range(10)])
        claimed = inbox.claim(
            connection, targets=["handlers"], limit=10, lease_seconds=60, now=NOON
        )
        assert len(claimed) == 10
        inbox.settle(connection, [ending(d, DeliveryState.DONE) for d in claimed], NOON)

    def receive_leased() -> None:
        updates = [arrival(lane=10**6 + n, lease_seconds=60.0) for n in range(10)]
        deliveries = leased(inbox.receive(connection, updates))
        assert len(deliveries) == 10
        inbox.settle(connection, [ending(d, DeliveryState.DONE) for d in deliveries], NOON)

    with_none = steps_of(connection, receive_and_claim)
    leased_with_none = steps_of(connection, receive_leased)
    inbox.receive(connection, [arrival(lane=n % 5000) for n in range(30_000)])
    heads = inbox.claim(connection, targets=["handlers"], limit=5000, lease_seconds=1, now=NOON)
    assert len(heads) == 5000
    connection.execute("UPDATE wats_deliveries SET due_at = due_at + 3600000 WHERE is_head")

    behind_many = steps_of(connection, receive_and_claim)

    assert behind_many < 1.5 * with_none
    assert steps_of(connection, receive_leased) < 1.5 * leased_with_none + 1


def test_a_payload_is_erased_with_its_last_target_and_kept_for_a_dead_one(
    connection: Connection, arrival: MakeArrival
) -> None:
    inbox.receive(connection, [arrival(targets=("a", "b")), arrival(), arrival(targets=())])

    def settle(target: str, state: DeliveryState) -> None:
        claimed = inbox.claim(connection, [target], limit=1, lease_seconds=1, now=NOON)
        inbox.settle(connection, [ending(d, state) for d in claimed], NOON)

    def kept() -> list[int]:
        rows = connection.execute("SELECT update_id FROM wats_payloads ORDER BY update_id")
        return [update_id for (update_id,) in rows]

    assert kept() == [1, 2]
    settle("a", DeliveryState.DONE)
    settle("handlers", DeliveryState.DEAD)
    assert kept() == [1, 2]
    settle("b", DeliveryState.DONE)
    assert kept() == [2]
    assert connection.execute("SELECT error FROM wats_dead_deliveries").fetchall() == [(None,)]


class Model:
    """Handles a random history, and checks at each step what must never happen."""

    def __init__(self) -> None:
        self.connection = connect()
        self.now = NOON
        self.received: dict[tuple[str, int], list[int]] = {}
        self.ended: set[tuple[int, str]] = set()
        self.held: list[Delivery] = []
        self.overdue: list[Delivery] = []  # their leases ran out, and nobody claimed them
        self.lost: list[Delivery] = []  # somebody did
        self.count = 0

    def receive(self, lane: int, targets: tuple[str, ...], lease_seconds: float) -> None:
        self.count += 1
        arrival = Arrival(
            key=self.count.to_bytes(16, "big"),
            occurred_at=self.now,
            received_at=self.now,
            kind="message",
            phone_number_id=None,
            lane=lane,
            payload=b"",
            targets=targets,
            lease_seconds=lease_seconds,
        )
        (kept,) = inbox.receive(self.connection, [arrival])
        assert kept is not None
        for delivery in kept.leased:
            assert set(self.received.get((delivery.target, lane), ())) <= {
                update_id for update_id, target in self.ended if target == delivery.target
            }
        self.held += kept.leased
        for target in targets:
            self.received.setdefault((target, lane), []).append(self.count)

    def claim(self, limit: int) -> None:
        claimed = inbox.claim(
            self.connection, ["a", "b"], limit=limit, lease_seconds=60, now=self.now
        )
        assert len(claimed) <= limit
        ours = {(d.update_id, d.target) for d in claimed}
        assert ours.isdisjoint((d.update_id, d.target) for d in self.held)
        for delivery in claimed:
            assert (delivery.update_id, delivery.target) not in self.ended
            for earlier in self.received[delivery.target, delivery.lane]:
                if earlier < delivery.update_id:
                    assert (earlier, delivery.target) in self.ended | ours
        self.held += claimed
        self.lost += [d for d in self.overdue if (d.update_id, d.target) in ours]
        self.overdue = [d for d in self.overdue if (d.update_id, d.target) not in ours]

    def settle(self, state: DeliveryState, which: int, *, late: bool = False) -> None:
        leases = self.overdue if late else self.held
        if not leases:
            return
        delivery = leases.pop(which % len(leases))
        inbox.settle(self.connection, [ending(delivery, state)], self.now)
        if state in (DeliveryState.DONE, DeliveryState.DEAD):
            self.ended.add((delivery.update_id, delivery.target))

    def settle_late(self, state: DeliveryState, which: int) -> None:
        self.settle(state, which, late=True)

    def settle_lost(self, state: DeliveryState, which: int) -> None:
        if not self.lost:
            return
        before = self.connection.total_changes()
        settled = inbox.settle(
            self.connection, [ending(self.lost[which % len(self.lost)], state)], self.now
        )
        assert settled == Settled(done=(), more=False)
        assert self.connection.total_changes() == before

    def renew(self) -> None:
        inbox.renew(self.connection, [*self.held, *self.lost], lease_seconds=60, now=self.now)

    def wait(self) -> None:
        self.now += timedelta(seconds=60)
        self.overdue += self.held
        self.held = []

    def crash(self) -> None:
        self.wait()
        self.overdue = []

    def finish(self) -> None:
        self.crash()
        while self.held or len(self.ended) < sum(map(len, self.received.values())):
            self.claim(100)
            assert self.held
            while self.held:
                self.settle(DeliveryState.DONE, 0)


ENDINGS = [DeliveryState.DONE, DeliveryState.RETRY, DeliveryState.DEAD, DeliveryState.PENDING]
STEPS = st.one_of(
    st.tuples(
        st.just("receive"),
        st.integers(0, 2),
        st.sampled_from([("a",), ("b",), ("a", "b")]),
        st.sampled_from([0.0, 60.0]),
    ),
    st.tuples(st.just("claim"), st.integers(1, 5)),
    st.tuples(
        st.sampled_from(["settle", "settle_late", "settle_lost"]),
        st.sampled_from(ENDINGS),
        st.integers(0, 20),
    ),
    st.tuples(st.sampled_from(["renew", "wait", "crash"])),
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_whatever_happens_lanes_keep_their_order_and_everything_ends(
    steps: list[tuple[object, ...]],
) -> None:
    model = Model()

    for name, *arguments in steps:
        getattr(model, str(name))(*arguments)
    model.finish()

    inbox.purge_dead(model.connection, model.now + timedelta(1), 1000)
    for table in ("wats_outstanding", "wats_payloads", "wats_dead_deliveries"):
        assert model.connection.execute(f"SELECT count(*) FROM {table}").get == 0  # noqa: S608
    model.connection.close()


def test_a_delivery_takes_no_step_that_is_not_in_the_table_of_its_life(
    connection: Connection, arrival: MakeArrival
) -> None:
    connection.execute("CREATE TABLE steps (before TEXT, after TEXT)")
    connection.execute(
        "CREATE TRIGGER noted AFTER UPDATE OF state ON wats_deliveries "
        "BEGIN INSERT INTO steps VALUES (old.state, new.state); END"
    )
    inbox.receive(connection, [arrival()])

    for state in (DeliveryState.RETRY, DeliveryState.PENDING, None, DeliveryState.DONE):
        now = NOON + timedelta(hours=1)
        claimed = inbox.claim(connection, ["handlers"], limit=1, lease_seconds=-1, now=now)
        if state is not None:  # else its lease runs out
            inbox.settle(connection, [ending(each, state) for each in claimed], NOON)

    steps = {(DeliveryState(old), DeliveryState(new)) for old, new in _steps(connection)}
    assert len(steps) == 5
    assert all(new in TRANSITIONS[old] for old, new in steps)


def _steps(connection: Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT before, after FROM steps").fetchall()


def test_however_much_is_leased_as_it_arrives_what_is_read_as_a_whole_stays_small(
    connection: Connection, arrival: MakeArrival
) -> None:
    updates = [arrival(lane=n, lease_seconds=60.0) for n in range(3 * MOST)]

    kept = [
        *inbox.receive(connection, updates[: MOST + 1]),
        *inbox.receive(connection, updates[MOST + 1 :]),
    ]

    deliveries = leased(kept)
    assert [delivery.payload for delivery in deliveries] == [update.payload for update in updates]
    assert connection.execute("SELECT count(*) FROM wats_first_leases").get == MOST
    settlements = [ending(delivery, DeliveryState.DONE) for delivery in deliveries]
    assert inbox.settle(connection, settlements, NOON) == Settled(
        done=tuple(delivery.update_id for delivery in deliveries), more=False
    )
    assert connection.execute("SELECT count(*) FROM wats_outstanding").get == 0


def leased(kept: Sequence[Kept | None]) -> list[Delivery]:
    """Return all deliveries that are leased to who brought them."""
    return [delivery for each in kept if each is not None for delivery in each.leased]


def test_an_update_that_dies_for_one_target_while_another_is_done_is_erased_in_the_end(
    connection: Connection, arrival: MakeArrival
) -> None:
    one, other = leased(
        inbox.receive(connection, [arrival(targets=("a", "b"), lease_seconds=60.0)])
    )

    settled = inbox.settle(
        connection, [ending(one, DeliveryState.DEAD), ending(other, DeliveryState.DONE)], NOON
    )

    assert settled.done == ()
    assert connection.execute("SELECT count(*) FROM wats_payloads").get == 1
    inbox.purge_dead(connection, NOON + timedelta(1), 10)
    assert connection.execute("SELECT count(*) FROM wats_payloads").get == 0


@pytest.mark.parametrize("state", [*ENDINGS])
def test_what_is_settled_twice_at_once_is_settled(
    connection: Connection, arrival: MakeArrival, state: DeliveryState
) -> None:
    (delivery,) = leased(inbox.receive(connection, [arrival(lease_seconds=60.0)]))

    settled = inbox.settle(connection, [ending(delivery, state)] * 2, NOON)

    assert settled.done == ((delivery.update_id,) if state is DeliveryState.DONE else ())
    depth = inbox.depth(connection)
    found = {
        DeliveryState.DONE: 0,
        DeliveryState.RETRY: depth.retry,
        DeliveryState.DEAD: depth.dead,
        DeliveryState.PENDING: depth.pending,
    }
    assert found[state] == (state is not DeliveryState.DONE)
    assert depth.pending + depth.leased + depth.retry + depth.dead == found[state]


def test_a_lease_that_was_lost_long_ago_says_nothing_about_who_has_its_number_now(
    connection: Connection, arrival: MakeArrival
) -> None:
    (lost,) = leased(inbox.receive(connection, [arrival(lease_seconds=60.0)]))
    later = NOON + timedelta(1)
    (again,) = inbox.claim(connection, ["handlers"], limit=1, lease_seconds=60, now=later)
    inbox.settle(connection, [ending(again, DeliveryState.DONE)], later)
    inbox.purge(connection, [lost.update_id], later)

    (new,) = leased(inbox.receive(connection, [arrival(lease_seconds=60.0)]))
    inbox.renew(connection, [lost], lease_seconds=3600, now=later)
    settled = inbox.settle(connection, [ending(lost, DeliveryState.DONE)], later)

    assert new.update_id == lost.update_id
    assert settled == Settled(done=(), more=False)
    assert inbox.depth(connection).leased == 1
    assert len(inbox.claim(connection, ["handlers"], limit=1, lease_seconds=60, now=later)) == 1
