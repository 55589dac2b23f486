"""Copy a complete store to another one while no service uses either."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Final

import msgspec

from wats.errors import ConfigError, CopyRefused, StoreError
from wats.store.open import IN_MEMORY, open_store, path_of_file
from wats.store.sqlite import transfer as sqlite
from wats.store.transfer import Batches, DeadLetterRow, DeliveryRow, Loaded, StoredRow

_SOURCE: Final = "FROM"
_TARGET: Final = "TO"

NumberOf = Callable[[bytes], str]
"""Returns the business number of a payload, or an empty string."""


async def copy_store(
    source: str,
    target: str,
    number_of: NumberOf,
    *,
    source_password: str | None = None,
    target_password: str | None = None,
) -> Loaded:
    """Copy all rows of the store *source* to the empty store *target*, or none.

    Args:
        source: The URL of a store, as for `open_store`.
        target: The URL of an empty store.
        number_of: Reads the business number of a delivery, which SQLite does not store.
        source_password: The password of a PostgreSQL source.
        target_password: The password of a PostgreSQL target.

    Raises:
        CopyRefused: A store is in use, the source is missing, or the target is not empty.
        ConfigError: A URL is not that of a supported store.
        StoreError: A database cannot be opened, read or written. The issue names FROM or TO.
    """
    for argument, url in ((_SOURCE, source), (_TARGET, target)):
        _check(argument, url)
        if url == IN_MEMORY:
            raise CopyRefused("A database in memory cannot be copied.")
    async with aclosing(_export(source, source_password)) as exported:
        first = await _first_of(exported)  # a source that cannot be read leaves no new target
        async with aclosing(_with_numbers(first, exported, number_of)) as batches:
            with _naming(_TARGET):
                return await _load(target, target_password, batches)


@contextmanager
def _naming(argument: str) -> Iterator[None]:
    """Let the errors of the block name *argument*, unless they name another argument already."""
    try:
        yield
    except StoreError as error:
        if error.issue is not None and error.issue.path not in {_SOURCE, _TARGET}:
            error.issue = replace(error.issue, path=argument)
        raise


def _check(argument: str, url: str) -> None:
    try:
        open_store(url)  # does no I/O
    except ConfigError as error:
        issues = [replace(issue, path=argument) for issue in error.issues]
        raise ConfigError(issues, "A URL is invalid.") from None


async def _export(url: str, password: str | None) -> Batches:
    with _naming(_SOURCE):
        async with aclosing(_exported(url, password)) as batches:
            async for batch in batches:
                yield batch


def _exported(url: str, password: str | None) -> Batches:
    if (path := path_of_file(url)) is not None:
        return sqlite.export(path)
    from wats.store.postgres import transfer  # asyncpg is optional

    return transfer.export(url, password)


async def _load(url: str, password: str | None, batches: Batches) -> Loaded:
    if (path := path_of_file(url)) is not None:
        return await sqlite.load(path, batches)
    from wats.store.postgres import transfer  # asyncpg is optional

    return await transfer.load(url, password, batches)


async def _first_of(batches: Batches) -> Sequence[StoredRow]:
    async for batch in batches:
        return batch
    return ()


async def _with_numbers(
    first: Sequence[StoredRow], others: Batches, number_of: NumberOf
) -> Batches:
    if first:
        yield [_with_number(row, number_of) for row in first]
    async for batch in others:
        yield [_with_number(row, number_of) for row in batch]


def _with_number(row: StoredRow, number_of: NumberOf) -> StoredRow:
    if isinstance(row, DeliveryRow | DeadLetterRow) and row.phone_number_id is None:
        return msgspec.structs.replace(row, phone_number_id=number_of(row.payload))
    return row
