"""Whether a write-ahead log belongs to the database file next to it.

SQLite does not check this: it replays any valid log, and a restored file with the log of its
predecessor is damaged at the next start. Each log therefore has a copy of page 1 with a number,
`user_version`, which grows by one each time that it is written. The file must have the number from
before the log, or one from within.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple
from urllib.parse import quote

import apsw

_LOG_HEADER: Final = struct.Struct(">8I")
_FRAME_HEADER: Final = struct.Struct(">6I")
_MAGIC: Final = {0x377F0682: "<", 0x377F0683: ">"}
_MAGIC_BYTES: Final = 4
_WAL_FORMAT: Final = 2
_WORD: Final = 0xFFFFFFFF

NEXT_NUMBER: Final = "PRAGMA user_version = {}"
"""Marks the log and, at the next checkpoint, the file. Execute it first in each log."""


class Page1(NamedTuple):
    """The fields of the first page of a database that identify it."""

    page_bytes: int
    write_format: int
    schema_cookie: int
    number: int


class _Frame(NamedTuple):
    offset: int
    page: int
    salts: tuple[int, int]
    checksum: tuple[int, int]


def number_after(number: int) -> int:
    """Return the next `user_version`; SQLite keeps 31 bits and a sign."""
    return (number + 1) & 0x7FFFFFFF


def is_foreign(path: str, log: str) -> bool:
    """Return whether *log* has commits of another database than that in the file *path*.

    `False` also if there are no signs: the log is empty, not valid, or has no copy of page 1.
    """
    try:
        with Path(log).open("rb") as file:
            copies = _copies_of_page_1(file)
    except FileNotFoundError:
        return False
    if copies is None:
        return False
    own = page_1(path)
    if own is None:  # the file is empty or missing, and SQLite would remove the log
        return True
    if own.write_format != _WAL_FORMAT:  # as in a backup: a file with a log is in another format
        return True
    return bool(copies) and not _fits(own, copies[0], copies[-1])


def _fits(own: Page1, first: Page1, last: Page1) -> bool:
    return (
        own.page_bytes == last.page_bytes
        and own.schema_cookie <= last.schema_cookie  # a vacuumed copy has the next cookie
        and first.number - 1 <= own.number <= last.number
    )


def is_successor(later: Page1 | None, earlier: Page1 | None) -> bool:
    """Return whether checkpoints can have changed *earlier*, page 1 of a file in use, to *later*.

    An earlier copy of the file has a smaller number, and a vacuumed copy another format.
    """
    if earlier is None:
        return True
    return (
        later is not None
        and later.write_format == _WAL_FORMAT
        and later.page_bytes == earlier.page_bytes
        and later.number >= earlier.number
    )


def has_header(descriptor: int) -> bool:
    """Return whether the open file begins like a write-ahead log, or is empty."""
    magic = os.pread(descriptor, _MAGIC_BYTES, 0)
    return not magic or int.from_bytes(magic) in _MAGIC


def page_1(path: str) -> Page1 | None:
    """Read page 1 of the file, without its log; `None` if there is none.

    Read through SQLite: closing another descriptor of the file would drop SQLite's locks on it.
    """
    if not Path(path).is_file():
        return None
    with closing(connect_immutable(path)) as connection:
        found: Any = connection.read("main", 0, 0, 100)
    return _page_1(found[1]) if len(found[1]) == 100 and any(found[1]) else None


def connect_immutable(path: str) -> apsw.Connection:
    """Open the file alone: without its log, without locks, and without making any other file."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(f"file:{quote(path)}?immutable=1", flags=flags)


def _page_1(head: bytes) -> Page1:
    (page_bytes,) = struct.unpack_from(">H", head, 16)
    (cookie,) = struct.unpack_from(">I", head, 40)
    (number,) = struct.unpack_from(">I", head, 60)
    return Page1(65_536 if page_bytes == 1 else page_bytes, head[18], cookie, number)


def _copies_of_page_1(file: BinaryIO) -> Sequence[Page1] | None:
    """Return the first and the last copy of page 1 in the log; `None` for a log without frames."""
    head = file.read(_LOG_HEADER.size)
    if len(head) < _LOG_HEADER.size:
        return None
    magic, _, page_bytes, _, *rest = _LOG_HEADER.unpack(head)
    order = _MAGIC.get(magic)
    start = _Frame(-1, 0, (rest[0], rest[1]), (rest[2], rest[3]))
    if order is None or _checksum((0, 0), head[:24], order) != start.checksum:
        return None
    before, pairs = start, []
    for frame in _frames(file, start, page_bytes):
        if frame.page == 1:
            pairs.append((before, frame))
        before = frame
    if before is start:
        return None
    ends = [_first_valid(file, found, page_bytes, order) for found in (pairs, pairs[::-1])]
    return [copy for copy in ends if copy is not None]


def _frames(file: BinaryIO, start: _Frame, page_bytes: int) -> Iterator[_Frame]:
    """Yield the frames of the present generation; those of an earlier one have other salts."""
    offset = _LOG_HEADER.size
    while True:
        file.seek(offset)
        head = file.read(_FRAME_HEADER.size)
        if len(head) < _FRAME_HEADER.size:
            return
        page, _, *rest = _FRAME_HEADER.unpack(head)
        frame = _Frame(offset, page, (rest[0], rest[1]), (rest[2], rest[3]))
        if frame.salts != start.salts:
            return
        yield frame
        offset += _FRAME_HEADER.size + page_bytes


def _first_valid(
    file: BinaryIO, pairs: Sequence[tuple[_Frame, _Frame]], page_bytes: int, order: str
) -> Page1 | None:
    """Return the first copy with a valid checksum; the last frame may be torn."""
    for before, frame in pairs:
        file.seek(frame.offset)
        content = file.read(_FRAME_HEADER.size + page_bytes)
        page = content[_FRAME_HEADER.size :]
        if len(page) == page_bytes:
            seed = _checksum(before.checksum, content[:8], order)
            if _checksum(seed, page, order) == frame.checksum:
                return _page_1(page[:100])
    return None


def _checksum(seed: tuple[int, int], data: bytes, order: str) -> tuple[int, int]:
    first, second = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & _WORD
        second = (second + odd + first) & _WORD
    return first, second
