import math

import pytest

from tests.subscribers.conftest import Clock
from wats.subscribers.circuit import DOUBLINGS, LONGEST_PAUSE_SECONDS, THRESHOLD, Circuit


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit(monotonic=clock, jitter=lambda: 0.0)


def fail(circuit: Circuit, times: int) -> list[bool]:
    return [circuit.fail(object()) for _ in range(times)]


def test_failures_in_a_row_open_the_circuit(circuit: Circuit) -> None:
    assert fail(circuit, THRESHOLD - 1) == [False] * (THRESHOLD - 1)
    assert circuit.admit()

    assert fail(circuit, 1) == [True]

    assert circuit.is_open
    assert not circuit.admit()


def test_a_success_between_failures_keeps_it_closed(circuit: Circuit) -> None:
    fail(circuit, THRESHOLD - 1)

    circuit.succeed()

    assert not any(fail(circuit, THRESHOLD - 1))


def test_failures_of_one_cause_never_open_it(circuit: Circuit) -> None:
    assert not any(circuit.fail("the same update") for _ in range(10 * THRESHOLD))


def test_an_open_circuit_admits_one_probe_after_its_pause(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, THRESHOLD)
    clock.seconds += circuit.pause()

    assert [circuit.admit() for _ in range(3)] == [True, False, False]


def test_an_open_circuit_permits_no_request_and_after_its_pause_one_at_a_time(
    circuit: Circuit, clock: Clock
) -> None:
    limits = [circuit.limit()]
    fail(circuit, THRESHOLD)
    limits.append(circuit.limit())
    clock.seconds += circuit.pause()
    limits.append(circuit.limit())
    circuit.admit()
    limits.append(circuit.limit())

    assert limits == [math.inf, 0, 1, 1]


@pytest.mark.parametrize(("outage", "doubling"), [(2.0, 0.5), (60.0, 15.0), (3600.0, 15.0)])
def test_after_an_outage_the_limit_doubles_until_there_is_none(
    circuit: Circuit, clock: Clock, outage: float, doubling: float
) -> None:
    circuit.hold(outage)
    clock.seconds += outage
    circuit.admit()
    circuit.succeed()

    limits = []
    for _ in range(12):
        limits.append(circuit.limit())
        clock.seconds += 0.9 * doubling
        limits.append(circuit.limit())
        clock.seconds += 0.1 * doubling

    doubled = [limit for n in range(DOUBLINGS) for limit in [2**n, 2**n]]
    assert limits == [*doubled, *[math.inf] * 4]


def test_a_success_while_it_is_closed_sets_no_limit(circuit: Circuit) -> None:
    fail(circuit, THRESHOLD - 1)
    circuit.succeed()

    assert circuit.limit() == math.inf


def test_an_outage_during_the_recovery_begins_with_one_request_again(
    circuit: Circuit, clock: Clock
) -> None:
    for _ in range(2):
        circuit.hold(4)
        clock.seconds += 4
        circuit.admit()
        circuit.succeed()
        assert circuit.limit() == 1
        clock.seconds += 2
        assert circuit.limit() == 4


def test_a_successful_probe_closes_it(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, THRESHOLD)
    clock.seconds += circuit.pause()
    assert circuit.admit()

    assert circuit.succeed()

    assert circuit.admit()
    assert not circuit.succeed()


def test_the_pause_grows_with_each_failed_probe_up_to_its_limit(
    circuit: Circuit, clock: Clock
) -> None:
    pauses = []
    fail(circuit, THRESHOLD)
    for _ in range(9):
        pauses.append(circuit.pause())
        clock.seconds += pauses[-1]
        assert circuit.admit()
        fail(circuit, 1)

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, LONGEST_PAUSE_SECONDS]


def test_late_failures_of_requests_before_the_outage_do_not_lengthen_the_pause(
    circuit: Circuit,
) -> None:
    fail(circuit, THRESHOLD)
    before = circuit.pause()

    assert not any(fail(circuit, 20))

    assert circuit.pause() == before


def test_late_successes_of_requests_before_the_outage_do_not_end_the_pause(
    circuit: Circuit, clock: Clock
) -> None:
    circuit.hold(60)
    clock.seconds += 1

    assert not circuit.succeed()

    assert circuit.limit() == 0
    assert circuit.pause() == 59


def test_a_cancelled_probe_permits_another_one(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, THRESHOLD)
    clock.seconds += circuit.pause()
    assert circuit.admit()

    circuit.abandon()

    assert circuit.admit()


def test_a_hold_lasts_as_long_as_it_was_asked_for(circuit: Circuit, clock: Clock) -> None:
    assert circuit.hold(600)
    assert not circuit.hold(600)
    assert circuit.pause() == 600
    clock.seconds += 599
    assert not circuit.admit()
    clock.seconds += 1

    assert circuit.admit()
