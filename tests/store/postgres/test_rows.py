"""Parameters of statements: PostgreSQL reads the values that were passed."""

import asyncio
from collections.abc import Sequence

import asyncpg
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.postgres.server import Server
from wats.store.postgres.rows import array, clean, columns

TEXTS = st.lists(st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8")))
NUMBERS = st.lists(st.none() | st.integers(-(2**63), 2**63 - 1))


async def test_postgresql_reads_the_values_of_an_array_that_is_passed_as_text(
    server: Server,
) -> None:
    connection = await asyncpg.connect(server.url("postgres"))
    loop, check = asyncio.get_running_loop(), st.tuples(TEXTS, NUMBERS)

    async def read(texts: Sequence[str | None], numbers: Sequence[int | None]) -> Sequence[object]:
        values = array(texts), array(numbers)
        return await connection.fetchrow("SELECT $1::text::text[], $2::text::bigint[]", *values)

    @settings(deadline=None)
    @given(check)
    def holds(values: tuple[Sequence[str | None], Sequence[int | None]]) -> None:
        future = asyncio.run_coroutine_threadsafe(read(*values), loop)
        assert tuple(future.result(10)) == values

    await asyncio.to_thread(holds)
    await connection.close()


def test_a_column_of_bytes_is_passed_as_it_is() -> None:
    assert [*columns([("a", b"\0", 1), (None, b"", 2)])] == ['{"a",null}', (b"\0", b""), "{1,2}"]


def test_a_text_without_nul_and_lone_surrogates_is_passed_unchanged() -> None:
    assert clean("a\x01\u200b\U0001f600") == "a\x01\u200b\U0001f600"
    assert clean("a\0\ud800b") == "a\ufffd?b"
