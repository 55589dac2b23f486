"""Lists of a running service, page by page."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

PAGE_ITEMS: Final = 100


class Page(Protocol[T_co]):
    """A page of a list."""

    @property
    def items(self) -> Sequence[T_co]:
        """The items."""

    @property
    def next_cursor(self) -> str | None:
        """The cursor of the next page, if there is one."""


PageOf: TypeAlias = Callable[[Mapping[str, str]], Page[T]]
"""Returns the page that a query asks for, or raises `NoAnswer`."""


def first_items(
    page_of: PageOf[T], query: Mapping[str, str], *, limit: int, cursor: str | None
) -> tuple[Sequence[T], str | None]:
    """Return up to *limit* items after *cursor*, at least one, and the cursor of the rest."""
    items: list[T] = []
    while True:
        page = page_of(_asked(query, min(limit - len(items), PAGE_ITEMS), cursor))
        items += page.items
        cursor = page.next_cursor
        if cursor is None or len(items) >= limit:
            return items, cursor


def all_items(page_of: PageOf[T], query: Mapping[str, str]) -> Iterator[T]:
    """Yield all items for *query*."""
    cursor: str | None = None
    while True:
        page = page_of(_asked(query, PAGE_ITEMS, cursor))
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def _asked(query: Mapping[str, str], limit: int, cursor: str | None) -> Mapping[str, str]:
    of_cursor = {} if cursor is None else {"cursor": cursor}
    return {**query, "limit": str(limit), **of_cursor}
