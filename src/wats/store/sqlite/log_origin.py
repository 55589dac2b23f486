"""Whether a write-ahead log belongs to the database file next to it.

SQLite does not check this: it replays any valid log, and a restored file with the log of its
predecessor is damaged at the next start. Each log therefore has a copy of page 1 with a number,
`user_version`, which grows by one each time that it is written. The file must have the number from
before the log, or one from within.
"""

import os
import struct
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple
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


def number_after(number: int) -> int:
    """Return the next `user_version`; SQLite keeps 31 bits and a sign."""
    return (number + 1) & 0x7FFFFFFF


def is_foreign(path: str, log: str) -> bool:
    """Return whether *log* has commits of another database than that in the file *path*.

    `False` also if there are no signs: the log is empty, not valid, or has no copy of page 1.
    """
    try:
        with Path(log).open("rb") as file:
            copies = _copies_of_page_1(file.fileno())
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


def _copies_of_page_1(log: int) -> Sequence[Page1] | None:
    """Return the first and the last copy of page 1 in the open log; `None` for one without frames.

    Frames of an earlier generation of the log have other salts.
    """
    head = os.pread(log, _LOG_HEADER.size, 0)
    if len(head) < _LOG_HEADER.size:
        return None
    magic, _, page_bytes, _, *salts, first, second = _LOG_HEADER.unpack(head)
    order, checksum = _MAGIC.get(magic), (first, second)
    if order is None or _checksum((0, 0), head[:24], order) != checksum:
        return None
    frames: list[tuple[int, tuple[int, int]]] = []
    offset = _LOG_HEADER.size
    while len(head := os.pread(log, _FRAME_HEADER.size, offset)) == _FRAME_HEADER.size:
        page, _, *frame_salts, first, second = _FRAME_HEADER.unpack(head)
        if frame_salts != salts:
            break
        if page == 1:
            frames.append((offset, checksum))
        checksum = first, second
        offset += _FRAME_HEADER.size + page_bytes
    if offset == _LOG_HEADER.size:
        return None
    ends = [_first_valid(log, found, page_bytes, order) for found in (frames, frames[::-1])]
    return [copy for copy in ends if copy is not None]


def _first_valid(
    log: int, frames: Sequence[tuple[int, tuple[int, int]]], page_bytes: int, order: str
) -> Page1 | None:
    """Return the first copy with a valid checksum; the last frame may be torn.

    *frames* are the offset of each, and the checksum of the frame before it.
    """
    for offset, before in frames:
        frame = os.pread(log, _FRAME_HEADER.size + page_bytes, offset)
        page = frame[_FRAME_HEADER.size :]
        if len(page) == page_bytes:
            checksum = _checksum(_checksum(before, frame[:8], order), page, order)
            if checksum == struct.unpack_from(">2I", frame, 16):
                return _page_1(page[:100])
    return None


def _checksum(seed: tuple[int, int], data: bytes, order: str) -> tuple[int, int]:
    first, second = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & _WORD
        second = (second + odd + first) & _WORD
    return first, second
