"""HTTP/1.x on the wire: the boundaries of requests and bodies. No I/O.

The parser of httptools sees whole heads only, and each head gets a parser of its own. It never sees
a byte of a body, so nothing that makes it stop or skip (an `Upgrade` offer, `CONNECT`, HTTP/2, an
error) can move the place where the next request begins. That place is a function of the bytes, not
of the segments in which they arrive.

A webhook needs two values of its head, so a webhook in its usual form is not parsed: one regular
expression validates the head and finds the two values (`webhook_head_reader`).
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import unquote

import httptools

from wats.errors import MalformedHTTP
from wats.web.exchange import header_values

MAX_HEAD_BYTES: Final = 64 * 1024
"""The budget of one request for bytes that are not body: head, chunk extensions, trailers."""

HEAD_END: Final = b"\r\n\r\n"

_BLANK: Final = b" \t"
_MAX_SIZE_DIGITS: Final = 15
_MAX_LENGTH_DIGITS: Final = 18
_NAME = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"
_REQUEST_LINE = re.compile(rb"([A-Z-]+) ([^\x00-\x20\x7f-\xff]+) HTTP/(1\.[01])\r\n")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_FIELD_LINE = _NAME + b":" + _VALUE
_TRAILER_LINE = re.compile(_FIELD_LINE)

# The fields that every webhook needs, spelled as in HTTP/1.1 or in HTTP/2. In another spelling the
# name is neither in a needed line nor in another line, so the head is declined.
_NEEDED_LINE = (
    rb"(?:[Hh]ost():" + _VALUE + rb"|[Cc]ontent-[Ll]ength:[\t ]*+([0-9]{1,18}+)[\t ]*+"
    rb"|[Xx]-[Hh]ub-[Ss]ignature-256:[\t ]*+(sha256=[0-9a-f]{64})[\t ]*+)\r\n"
)
_OTHER_LINES = (
    rb"(?:(?![HhCcTtEeXx](?i:(?:ost|ontent-length|ransfer-encoding|xpect|-hub-signature-256):"
    rb"|onnection:(?! ?keep-alive\r)))" + _FIELD_LINE + rb"\r\n)*"  # not *+: before 3.11.5 it fails
)


class Head:
    """A parsed request head: everything about a request except its body.

    Attributes:
        version: `1.0` or `1.1`.
        fields: The header fields by lower-case name. Of repeated lines it has the last one only.
        has_repeats: Whether a field is on several lines.
        keep_alive: Whether the client permits reusing the connection.
        length: The length of the body in bytes, `None` if the body is chunked.

    Raises:
        MalformedHTTP: The bytes are not exactly one head that RFC 9112 permits.
    """

    __slots__ = (
        "_lines",
        "fields",
        "has_repeats",
        "keep_alive",
        "length",
        "method",
        "target",
        "version",
    )

    def __init__(self, data: bytes) -> None:
        line = _REQUEST_LINE.match(data)
        if line is None:
            raise MalformedHTTP
        self.method, self.target, self.version = line.groups()
        raw: dict[bytes, bytes] = {}
        _parse(data, raw.__setitem__)
        self.fields = fields = {name.lower(): value for name, value in raw.items()}
        self.has_repeats = len(fields) < data.count(b"\n") - 2
        self._lines = _lines_of(data) if self.has_repeats else None
        self.keep_alive = self.version == b"1.1"
        if b"host" not in fields and self.keep_alive:
            raise MalformedHTTP
        if b"connection" in fields and self._has_close():
            self.keep_alive = False
        self.length: int | None = 0
        if b"content-length" in fields or b"transfer-encoding" in fields:
            self.length = self._body_length()
        if self.has_repeats and self._is_repeated(b"host"):
            raise MalformedHTTP

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The fields line by line, in order."""
        return self._lines if self._lines is not None else list(self.fields.items())

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body."""
        if b"expect" not in self.fields or self.version != b"1.1":
            return False
        return self.fields[b"expect"].strip(_BLANK).lower() == b"100-continue"

    def _has_close(self) -> bool:
        tokens = b",".join(self._values(b"connection")).lower().split(b",")
        return b"close" in (token.strip(_BLANK) for token in tokens)

    def _body_length(self) -> int | None:
        length = self.fields.get(b"content-length")
        if length is None:
            codings = [value.lower() for value in self._values(b"transfer-encoding")]
            if codings != [b"chunked"] or self.version != b"1.1":
                raise MalformedHTTP
            return None
        length = length.rstrip(_BLANK)
        if (
            b"transfer-encoding" in self.fields
            or not length.isdigit()
            or len(length) > _MAX_LENGTH_DIGITS
            or (self.has_repeats and self._is_repeated(b"content-length"))
        ):
            raise MalformedHTTP
        return int(length)

    def _is_repeated(self, name: bytes) -> bool:
        return len(self._values(name)) > 1

    def _values(self, name: bytes) -> list[bytes]:
        return header_values(self.headers, name)


class _Callbacks:
    """The callbacks of the parser: C functions, since a Python call for each field is slow.

    A head ends once. If the parser found its end before we do, it would take the rest for a body, a
    chunk or another head: the second call fails, and so does parsing.
    """

    __slots__ = ("on_body", "on_chunk_header", "on_header", "on_headers_complete")

    # The parser looks for these as well, but slowly if they are missing.
    on_url = on_status = on_chunk_complete = on_message_begin = on_message_complete = None

    def __init__(
        self, on_header: Callable[[bytes, bytes], None], end_once: Callable[..., bool]
    ) -> None:
        self.on_header = on_header
        self.on_headers_complete = self.on_body = self.on_chunk_header = end_once


def _parse(data: bytes, on_header: Callable[[bytes, bytes], None]) -> None:
    incomplete = [True]
    try:
        httptools.HttpRequestParser(_Callbacks(on_header, incomplete.pop)).feed_data(data)
    except httptools.HttpParserUpgrade:  # declined; and the parser is done with this head
        pass
    except httptools.HttpParserError:
        raise MalformedHTTP from None
    if incomplete:
        raise MalformedHTTP


def _lines_of(data: bytes) -> list[tuple[bytes, bytes]]:
    lines: list[tuple[bytes, bytes]] = []
    _parse(data, lambda name, value: lines.append((name.lower(), value)))
    return lines


HeadReader: TypeAlias = Callable[[bytes, int, int], tuple[int, str] | None]


@lru_cache(maxsize=8)
def webhook_head_reader(path: bytes, *, reads_traces: bool = False) -> HeadReader:
    """Return a function that reads the head of a webhook POST to *path*.

    Fast path of `Head`, in a third of its time. The function takes bytes and the place of a head in
    them, and returns the length of the body and the signature. It may decline any head, by `None`,
    but never accepts a head that `Head` refuses or reads differently: a property test compares
    them. It declines every `Expect`, every `Transfer-Encoding`, every `Connection` other than
    `keep-alive`, and repeats of the fields that it needs; with *reads_traces*, also `traceparent`.
    """
    others = _OTHER_LINES
    if reads_traces:
        others = others.replace(b"|ransfer-encoding", b"|ransfer-encoding|raceparent")
    matches = re.compile(
        # Three needed lines with three values: no field is missing or repeated.
        rb"POST %b HTTP/1\.1\r\n(?:%b%b){3}%b\r\n" % (re.escape(path), others, _NEEDED_LINE, others)
    ).fullmatch

    def read(data: bytes, start: int, end: int) -> tuple[int, str] | None:
        match = matches(data, start, end)
        if match is None:
            return None
        host, length, signature = match.groups()
        if host is None or length is None or signature is None:
            return None
        return int(length), signature.decode()

    return read


def can_be_head(data: bytes) -> bool:
    """Return whether *data*, bytes that have arrived so far, can be the beginning of a head."""
    if len(data) >= MAX_HEAD_BYTES or not b"A" <= data[:1] <= b"Z":
        return False
    return b"\n" not in data or _REQUEST_LINE.match(data) is not None


def split_target(target: bytes) -> tuple[str, bytes, bytes]:
    """Return the decoded path, the path as sent and the query of a request target.

    Raises:
        MalformedHTTP: The target is not a path or a URL.
    """
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise MalformedHTTP from None
    path: bytes = url.path or b"/"
    return unquote(path.decode("ascii")), path, url.query or b""


class SizedBody:
    """A body with a `Content-Length`."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def is_complete(self) -> bool:
        """Whether the body has been read to its end."""
        return not self._left

    def read(self, data: bytes, start: int) -> tuple[bytes, int]:
        """Return the bytes of the body in *data* from *start* on, and their end."""
        piece = data[start : start + self._left]
        self._left -= len(piece)
        return piece, start + len(piece)


class ChunkedBody:
    """A chunked body. Extensions and trailers are checked, counted and dropped.

    Args:
        head_bytes: The part of the budget for bytes outside of bodies that the head used.
    """

    __slots__ = ("_budget", "_in_trailers", "_left", "is_complete")

    def __init__(self, head_bytes: int) -> None:
        self._budget = MAX_HEAD_BYTES - head_bytes
        self._left = 0  # of the chunk that is read now, with the CRLF behind it
        self._in_trailers = False
        self.is_complete = False

    def read(self, data: bytes, start: int) -> tuple[bytes, int]:
        """Return the bytes of the body in *data* from *start* on, and the position reached.

        The rest, an incomplete line at most, must be passed again with the next bytes.

        Raises:
            MalformedHTTP: The chunks are malformed, or over the budget.
        """
        pieces: list[bytes] = []
        place = start
        while not self.is_complete:
            read_on = self._read_chunk if self._left else self._read_line
            after = read_on(data, place, pieces)
            if after == place:
                break
            place = after
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), place

    def _read_chunk(self, data: bytes, place: int, pieces: list[bytes]) -> int:
        if self._left > 2:
            piece = data[place : place + self._left - 2]
            if piece:
                pieces.append(piece)
            self._left -= len(piece)
            return place + len(piece)
        end = data[place : place + 2]
        if not b"\r\n".startswith(end):
            raise MalformedHTTP
        if len(end) < 2:
            return place
        self._left = 0
        return place + 2

    def _read_line(self, data: bytes, place: int, _pieces: list[bytes]) -> int:
        end = data.find(b"\r\n", place)
        if end < 0:
            is_too_long = len(data) - place > self._budget + _MAX_SIZE_DIGITS + 1
            if is_too_long or data.find(b"\n", place) >= 0:
                raise MalformedHTTP
            return place
        line = data[place:end]
        if self._in_trailers:
            self._end_trailer(line)
        else:
            self._begin_chunk(line)
        return end + 2

    def _begin_chunk(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise MalformedHTTP
        digits = len(match[1])
        size = int(match[1], 16)
        # Framing counts where it is longer than the chunk, so tiny chunks are limited.
        self._spend(len(line) - digits + max(0, digits + 4 - size))
        if size:
            self._left = size + 2
        else:
            self._in_trailers = True

    def _end_trailer(self, line: bytes) -> None:
        if not line:
            self.is_complete = True
            return
        self._spend(len(line) + 2)
        if _TRAILER_LINE.fullmatch(line) is None:
            raise MalformedHTTP

    def _spend(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise MalformedHTTP


Body = SizedBody | ChunkedBody


def body_of(head: Head, head_bytes: int) -> Body:
    """Return the reader of the body that follows *head*, which took *head_bytes*."""
    return ChunkedBody(head_bytes) if head.length is None else SizedBody(head.length)
