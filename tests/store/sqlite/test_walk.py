from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import pytest
from apsw import Connection

from wats.clock import from_ms
from wats.store.sqlite.walk import Walk

Trace = Callable[[Connection], list[str]]

CAN_GO = "at < ?2 AND NOT stays"

BEFORE = from_ms(100)
OLD, YOUNG = 99, 100


@pytest.fixture
def connection() -> Iterator[Connection]:
    connection = Connection(":memory:")
    connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, at INTEGER, stays INTEGER)")
    yield connection
    connection.close()


def add(connection: Connection, *things: tuple[int, bool]) -> None:
    connection.executemany("INSERT INTO things (at, stays) VALUES (?, ?)", things)


def walk_of(limit: int) -> Walk:
    return Walk("things", "id", "at < ?2", CAN_GO, limit)


def purge(connection: Connection, walk: Walk, before: datetime = BEFORE) -> Sequence[int]:
    ids = walk.next_rows(connection, before)
    assert walk.delete(connection, ids, before) == len(ids)
    return ids


def test_old_rows_are_found_a_few_at_a_time(connection: Connection) -> None:
    add(connection, *[(OLD, False)] * 5, (YOUNG, False))
    walk = walk_of(2)

    assert [purge(connection, walk) for _ in range(5)] == [[1, 2], [3, 4], [5], (), ()]


def test_a_row_that_must_stay_does_not_block_rows_behind_it(connection: Connection) -> None:
    add(connection, *[(OLD, True)] * 7, (OLD, False), (YOUNG, False))

    assert purge(connection, walk_of(2)) == [8]


def test_a_young_row_among_old_ones_does_not_block_rows_behind_it(connection: Connection) -> None:
    add(connection, (YOUNG, False), (OLD, False), (OLD, False), (YOUNG, False), (OLD, False))
    walk = walk_of(2)

    assert [purge(connection, walk) for _ in range(4)] == [[2], [3], [5], ()]


def test_a_walk_ends_where_no_row_is_old(connection: Connection, trace: Trace) -> None:
    add(connection, (OLD, False), *[(YOUNG, False)] * 1000)
    statements = trace(connection)

    assert walk_of(2).next_rows(connection, BEFORE) == [1]
    assert walk_of(2).next_rows(connection, from_ms(0)) == ()

    assert len(statements) == 2


def test_a_row_that_stays_is_read_once_in_a_walk(connection: Connection, trace: Trace) -> None:
    add(connection, *[(OLD, True)] * 100, *[(OLD, False)] * 100)
    walk = walk_of(10)
    statements = trace(connection)

    found = [walk.next_rows(connection, BEFORE) for _ in range(10)]

    assert [id_ for ids in found for id_ in ids] == list(range(101, 201))
    assert len(statements) == 20


def test_a_row_that_had_to_stay_is_found_once_it_may_go(connection: Connection) -> None:
    add(connection, (OLD, True), (OLD, False), (OLD, False))
    walk = walk_of(2)
    assert purge(connection, walk) == [2]
    connection.execute("UPDATE things SET stays = 0")

    assert [purge(connection, walk) for _ in range(3)] == [[3], [1], ()]


def test_a_row_that_changed_since_it_was_found_is_not_deleted(connection: Connection) -> None:
    add(connection, (OLD, False), (OLD, False), (OLD, False))
    walk = walk_of(3)
    found = walk.next_rows(connection, BEFORE)
    connection.execute("UPDATE things SET at = 100 WHERE id = 2")

    assert walk.delete(connection, found, BEFORE) == 2

    assert connection.execute("SELECT id FROM things").get == 2
