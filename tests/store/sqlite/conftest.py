import re
from collections.abc import Callable, Iterable

import pytest
from apsw import Connection, Cursor

NEVER_MANY = {"CONSTANT ROW", "wats_first_leases"}
"""What may be read as a whole: there are never more than some hundred first leases."""

ARRAY = re.compile(r"SCAN \w+ VIRTUAL TABLE INDEX 1:")
"""The scan of an array that a statement was given."""

LOOKS_AT_ONE = "SELECT EXISTS (SELECT 1 FROM wats_deliveries)"
"""A statement that SQLite calls a scan, and that ends with the first row."""


@pytest.fixture
def plans_of() -> Callable[[Connection, Iterable[str]], dict[str, str]]:
    """Return a function that tells how each of some statements is executed."""

    def plans_of(connection: Connection, statements: Iterable[str]) -> dict[str, str]:
        return {
            statement: "\n".join(
                row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
            )
            for statement in set(statements)
        }

    return plans_of


@pytest.fixture
def read_as_a_whole() -> Callable[[dict[str, str]], dict[str, set[str]]]:
    """Return a function that tells which tables statements read from end to end, by their plans."""

    def read_as_a_whole(plans: dict[str, str]) -> dict[str, set[str]]:
        scans = {
            statement: set(re.findall("SCAN (.*)", ARRAY.sub("", plan))) - NEVER_MANY
            for statement, plan in plans.items()
            if statement != LOOKS_AT_ONE
        }
        return {statement: tables for statement, tables in scans.items() if tables}

    return read_as_a_whole


@pytest.fixture
def trace() -> Callable[[Connection], list[str]]:
    """Return a function that begins to collect the statements of a connection, with values."""

    def begin(connection: Connection) -> list[str]:
        statements: list[str] = []

        def note(cursor: Cursor, _: str, __: object) -> bool:
            statements.append(cursor.expanded_sql)
            return True

        connection.set_exec_trace(note)
        return statements

    return begin
