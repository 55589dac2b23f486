from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.store.results import leased
from tests.store.sqlite.writers import open_writer, transaction
from wats.store.records import Arrival, DeliveryState, ReservationOutcome, Settlement
from wats.store.sqlite import deliveries, inbox, requests
from wats.store.sqlite.clock import StoreClock
from wats.store.sqlite.connection import Writer

MakeArrival = Callable[..., Arrival]
Open = Callable[[], Writer]

HOUR_MS = 3_600_000
NOON_MS = 1_790_000_000_000


class Machine:
    """A machine whose clocks can be set, and which can be rebooted."""

    def __init__(self) -> None:
        self.boots = 1
        self.boot_id: str | None = "boot 1"
        self.since_boot_ms = 5_000
        self.wall_ms = NOON_MS

    def clock(self) -> StoreClock:
        return StoreClock(
            boot_id=lambda: self.boot_id,
            since_boot_ms=lambda: self.since_boot_ms,
            wall_ms=lambda: self.wall_ms,
        )

    def advance(self, ms: int) -> None:
        self.since_boot_ms += ms
        self.wall_ms += ms

    def reboot(self, *, wall_ms: int) -> None:
        self.boots += 1
        self.boot_id = f"boot {self.boots}"
        self.since_boot_ms = 1_000
        self.wall_ms = wall_ms


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def open_here(machine: Machine, tmp_path: Path) -> Iterator[Open]:
    """Open a writer on one file with a new clock of the machine, as a process does."""
    with ExitStack() as stack:

        def open_here() -> Writer:
            writer = open_writer(str(tmp_path / "wats.db"), machine.clock())
            return stack.enter_context(closing(writer))

        yield open_here


def test_the_time_of_a_new_database_is_the_time_of_day(machine: Machine, open_here: Open) -> None:
    assert open_here().clock() == NOON_MS


@pytest.mark.parametrize("jump", [-HOUR_MS, HOUR_MS])
def test_a_wall_clock_that_is_set_changes_no_time_and_all_processes_agree(
    machine: Machine, open_here: Open, jump: int
) -> None:
    first = open_here()
    machine.wall_ms += jump
    machine.advance(7)

    second = open_here()

    assert first.clock() == second.clock() == NOON_MS + 7


def test_after_a_reboot_the_time_is_the_time_of_day_again(
    machine: Machine, open_here: Open
) -> None:
    open_here()
    machine.reboot(wall_ms=NOON_MS + HOUR_MS)

    assert open_here().clock() == NOON_MS + HOUR_MS


def test_after_a_reboot_with_an_older_time_of_day_the_time_continues_where_it_stopped(
    machine: Machine, open_here: Open, arrival: MakeArrival
) -> None:
    writer = open_here()
    machine.advance(HOUR_MS)
    with transaction(writer):
        inbox.receive(writer, [[arrival()]], {})
    machine.reboot(wall_ms=0)

    restarted = open_here()

    assert restarted.clock() == NOON_MS + HOUR_MS
    machine.wall_ms = NOON_MS + 3 * HOUR_MS  # corrected while it runs
    machine.advance(9)
    assert restarted.clock() == open_here().clock() == NOON_MS + HOUR_MS + 9


def test_a_machine_that_is_set_back_to_a_snapshot_delays_no_delivery_beyond_its_due_time(
    machine: Machine, open_here: Open, arrival: MakeArrival
) -> None:
    writer = open_here()
    machine.advance(5 * HOUR_MS)
    with transaction(writer):
        inbox.receive(writer, [[arrival()]], {"handlers": 1})
    machine.since_boot_ms -= 5 * HOUR_MS  # in the same boot; its disk is not set back
    restarted = open_here()

    machine.advance(61_000)

    with transaction(restarted):
        assert len(deliveries.claim(restarted, "handlers", 1).deliveries) == 1


def test_without_a_name_of_the_boot_every_start_takes_the_time_of_day(
    machine: Machine, open_here: Open
) -> None:
    machine.boot_id = None
    open_here()
    machine.wall_ms += HOUR_MS

    assert open_here().clock() == NOON_MS + HOUR_MS


@pytest.mark.parametrize("operation", ["claim", "renew", "retry"])
def test_a_reboot_with_an_older_time_of_day_delays_no_delivery_beyond_its_due_time(
    machine: Machine, open_here: Open, arrival: MakeArrival, operation: str
) -> None:
    writer = open_here()
    with transaction(writer):
        ((result,),) = inbox.receive(writer, [[arrival()]], {"handlers": 1})
    held = leased([result])
    machine.advance(5 * HOUR_MS)  # nothing arrives for hours
    with transaction(writer):
        if operation == "claim":
            assert len(deliveries.claim(writer, "handlers", 1).deliveries) == 1
        elif operation == "renew":
            assert list(deliveries.renew(writer, held)) == []
        else:
            deliveries.settle(writer, [Settlement(held[0], DeliveryState.RETRY, 60.0)])
    machine.reboot(wall_ms=0)
    restarted = open_here()

    machine.advance(61_000)

    with transaction(restarted):
        assert len(deliveries.claim(restarted, "handlers", 1).deliveries) == 1


def test_a_reboot_with_an_older_time_of_day_keeps_no_idempotency_key_reserved(
    machine: Machine, open_here: Open
) -> None:
    def reserve(writer: Writer) -> ReservationOutcome:
        with transaction(writer):
            new = requests.NewKey(
                key=("send", b"key"),
                request_hash=b"body",
                reserve_seconds=60.0,
                keep_seconds=3600.0,
            )
            return requests.reserve(writer, new).outcome

    writer = open_here()
    machine.advance(5 * HOUR_MS)
    assert reserve(writer) is ReservationOutcome.RESERVED
    machine.reboot(wall_ms=0)
    restarted = open_here()
    assert reserve(restarted) is ReservationOutcome.IN_FLIGHT

    machine.advance(61_000)

    assert reserve(restarted) is ReservationOutcome.UNKNOWN
