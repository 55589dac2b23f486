import os
from collections.abc import Callable

import pytest

from wats.telemetry import Adapter, Method, Outcome, RouteLabel, StatusClass
from wats.telemetry.registry import Registry
from wats.telemetry.vocabulary import (
    FAMILIES,
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    OUTBOX_DEPTH,
    PERSISTENCE_OPERATIONS,
    SEND_OUTCOMES,
    Subjects,
)


@pytest.fixture
def subjects(routes: tuple[RouteLabel, ...]) -> Subjects:
    return Subjects(routes=routes, adapter=Adapter.SQLITE)


def in_a_child_process(work: Callable[[], None]) -> int:
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_every_series_has_a_place_of_its_own(subjects: Subjects):
    registry = Registry(FAMILIES, subjects)

    places = [
        (block.slot(*values), block.width) for block in registry.blocks for values in block.series()
    ]

    taken = [slot for first, width in places for slot in range(first, first + width)]
    assert taken == list(range(len(registry.totals())))


def test_a_value_outside_the_closed_list_lands_on_the_one_that_stands_for_it(subjects: Subjects):
    block = Registry(FAMILIES, subjects).block(HTTP_REQUESTS)

    assert block.slot("PROPFIND", "/secret", 99) == block.slot(
        Method.UNKNOWN, "unmatched", StatusClass.UNKNOWN
    )


def test_a_histogram_has_a_slot_for_each_bucket_for_what_is_above_and_for_the_sum(
    subjects: Subjects,
):
    assert Registry(FAMILIES, subjects).block(HTTP_REQUEST_DURATION).width == 11 + 1 + 1


def test_a_family_is_exposed_only_if_it_has_a_subject(routes: tuple[RouteLabel, ...]):
    without_store = Registry(FAMILIES, Subjects(routes=routes, adapter=None))
    with_store = Registry(FAMILIES, Subjects(routes=routes, adapter=Adapter.POSTGRES))

    assert not without_store.block(PERSISTENCE_OPERATIONS).exposed
    assert with_store.block(PERSISTENCE_OPERATIONS).exposed
    assert not with_store.block(OUTBOX_DEPTH).exposed


def test_a_scrape_sums_the_rows_that_other_processes_wrote(subjects: Subjects):
    registry = Registry([SEND_OUTCOMES], subjects, rows=3)
    slot = registry.block(SEND_OUTCOMES).slot("messages", Outcome.SUCCESS)

    def record(row: int, times: int) -> None:
        registry.use_row(row)
        for _ in range(times):
            registry.slots[slot] += 1.0

    exits = [in_a_child_process(lambda: record(1, 1000)), in_a_child_process(lambda: record(2, 7))]
    registry.slots[slot] += 1.0

    assert exits == [0, 0]
    assert registry.totals()[slot] == 1008.0


def test_a_process_that_replaces_another_goes_on_from_its_counts(subjects: Subjects):
    registry = Registry([SEND_OUTCOMES], subjects, rows=2)

    def record() -> None:
        registry.use_row(1)
        registry.slots[0] += 1.0

    exits = [in_a_child_process(record), in_a_child_process(record)]

    assert exits == [0, 0]
    assert registry.totals()[0] == 2.0


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_that_does_not_exist_is_refused(subjects: Subjects, row: int):
    registry = Registry([SEND_OUTCOMES], subjects, rows=2)

    with pytest.raises(IndexError):
        registry.use_row(row)


def test_a_registry_without_rows_is_refused(subjects: Subjects):
    with pytest.raises(ValueError, match="at least one"):
        Registry([SEND_OUTCOMES], subjects, rows=0)
