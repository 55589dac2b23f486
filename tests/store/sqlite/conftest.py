import re
from collections.abc import Callable, Iterable

import pytest
from apsw import Connection, Cursor

NEVER_MANY = {"CONSTANT ROW", "wats_consumers"}
"""Tables that may be scanned: there are as many consumers as an operator ever configured."""

READS_FIRST_ROWS = "SELECT consumer, arrived_at FROM wats_deliveries ORDER BY id LIMIT "
"""A statement that SQLite calls a scan, and that ends after a bounded number of rows."""


ARRAY = re.compile(r"SCAN \w+ VIRTUAL TABLE INDEX 1:")
"""The scan of an array that a statement was given."""


@pytest.fixture
def plans_of() -> Callable[[Connection, Iterable[str]], dict[str, str]]:
    """Return a function that reads the query plan of each statement."""

    def plans_of(connection: Connection, statements: Iterable[str]) -> dict[str, str]:
        return {
            statement: "\n".join(
                row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
            )
            for statement in set(statements)
        }

    return plans_of


@pytest.fixture
def full_scans() -> Callable[[dict[str, str]], dict[str, set[str]]]:
    """Return a function that finds the tables which each statement scans, by its plan."""

    def full_scans(plans: dict[str, str]) -> dict[str, set[str]]:
        scans = {
            statement: set(re.findall("SCAN (.*)", ARRAY.sub("", plan))) - NEVER_MANY
            for statement, plan in plans.items()
            if not statement.strip().startswith(READS_FIRST_ROWS)
        }
        return {statement: tables for statement, tables in scans.items() if tables}

    return full_scans


@pytest.fixture
def trace() -> Callable[[Connection], list[str]]:
    """Return a function that collects the statements of a connection from then on, with values."""

    def begin(connection: Connection) -> list[str]:
        statements: list[str] = []

        def note(cursor: Cursor, _: str, __: object) -> bool:
            statements.append(cursor.expanded_sql)
            return True

        connection.set_exec_trace(note)
        return statements

    return begin
