import os
from collections.abc import Callable
from math import isnan

import pytest

from wats.telemetry.metrics.shared_memory import ERROR_BYTES, GAUGES, SLOTS, Board


def in_a_child_process(work: Callable[[], object]) -> int:
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_shared_memory_starts_with_nothing_counted_and_no_gauge_set():
    board = Board(2)

    assert [sum(board.slots(row, SLOTS)) for row in range(2)] == [0.0, 0.0]
    assert all(map(isnan, board.gauges(GAUGES)))
    assert [any(board.errors(row)) for row in range(2)] == [False, False]
    assert (board.rows, board.workers) == (2, 1)


def test_values_of_a_process_are_visible_to_all_and_outlive_it():
    board = Board(2)

    def write() -> None:
        board.slots(1, 3)[2] += 7.0
        board.gauges(1)[0] = 2.5
        board.errors(1)[0] = 65
        board.workers = 4

    assert in_a_child_process(write) == 0
    assert board.slots(1, 3).tolist() == [0.0, 0.0, 7.0]
    assert board.gauges(1).tolist() == [2.5]
    assert bytes(board.errors(1)[:1]) == b"A"
    assert board.workers == 4


def test_no_two_slots_overlap():
    board = Board(2)
    rows = [board.slots(row, SLOTS) for row in range(2)]
    errors = [board.errors(row) for row in range(2)]
    board.workers = 3

    for number, slots in enumerate(rows, 1):
        for place in range(SLOTS):
            slots[place] = number
    for place in range(GAUGES):
        board.gauges(GAUGES)[place] = 9.0
    for number, memory in enumerate(errors, 1):
        memory[:] = bytes([number]) * ERROR_BYTES

    assert [set(slots) for slots in rows] == [{1.0}, {2.0}]
    assert set(board.gauges(GAUGES)) == {9.0}
    assert [set(memory) for memory in errors] == [{1}, {2}]
    assert board.workers == 3


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_that_does_not_exist_is_refused(row: int):
    board = Board(2)

    with pytest.raises(IndexError):
        board.slots(row, 1)
    with pytest.raises(IndexError):
        board.errors(row)


def test_more_than_there_is_room_for_is_refused():
    board = Board()

    with pytest.raises(ValueError, match="room"):
        board.slots(0, SLOTS + 1)
    with pytest.raises(ValueError, match="room"):
        board.gauges(GAUGES + 1)


def test_shared_memory_without_rows_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Board(0)
