from collections.abc import Callable

import pytest
from apsw import Connection, Cursor


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
