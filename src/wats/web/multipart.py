"""A form with one file, read as a stream (RFC 7578).

    fields ─▸ head of the file ─▸ first bytes │ all further bytes, passed on unchanged ─▸ end

The file is usually the last part, so all other fields are known before its first byte is passed on.
So is its size, up to two bytes: the length of the request is known, only the closing delimiter
follows the file, and some clients end the form with a line break. Some clients write short fields
after the file; these are checked before the last bytes of the form are passed on.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from wats.errors import Detail, MalformedRequest, PayloadTooLarge, UnsupportedMediaType

MAX_FORM_BYTES: Final = 64 * 1024
"""The limit of all bytes of a form before its file."""

_BOUNDARY: Final = re.compile(
    r'multipart/form-data\s*;.*?\bboundary=(?:"([^"]*)"|([^\s;,"]+))', re.IGNORECASE | re.DOTALL
)
# RFC 2046, 5.1.1, without the space: a boundary is repeated in a header of ours.
_VALID_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=?-]{1,70}")
_PARAMETER: Final = re.compile(
    r';\s*(name|filename)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE
)
_DASHES: Final = b"--"
_LINE_END: Final = b"\r\n"
_MALFORMED: Final = "The form is invalid."

AcceptsField: TypeAlias = Callable[[str, str], bool]
"""Whether a field with this name and this value may follow the file."""


def _no_field(_name: str, _value: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class FormFile:
    """The file of a form, of which the first bytes have been read.

    Attributes:
        boundary: The boundary of the form.
        fields: The fields before the file, by name; of repeated ones the last.
        name: The name that the client gave the file; may be empty.
        content_type: The type in the head of the part; may be empty.
        start: The part of the form from the first byte of the file on that has been read.
        first_bytes: The first bytes of the file, without any that follow it.
        rest_length: The length of the form from the first byte of the file to its end.
    """

    boundary: bytes
    fields: Mapping[str, str] = field(repr=False)
    name: str = field(repr=False)
    content_type: str
    start: bytes = field(repr=False)
    first_bytes: bytes = field(repr=False)
    rest_length: int

    @property
    def min_size(self) -> int:
        """The size of the file, or two bytes less if no line end follows the form.

        It is more than that if fields follow the file.
        """
        return self.rest_length - len(self._delimiter + _DASHES + _LINE_END)

    @property
    def _delimiter(self) -> bytes:
        return _LINE_END + _DASHES + self.boundary

    async def rest(
        self, chunks: AsyncIterator[bytes], max_bytes: int, accepts: AcceptsField = _no_field
    ) -> AsyncIterator[bytes]:
        """Yield the file and the end of the form unchanged.

        The last bytes are held back until the form has proved valid: a recipient that knows the
        length never takes an invalid form for a complete one.

        Args:
            chunks: The part of the form that follows `start`.
            max_bytes: The limit of the file.
            accepts: Whether a field may follow the file; by default none may.

        Raises:
            PayloadTooLarge: The file is larger.
            MalformedRequest: Another part follows the file, or the form has no end.
        """
        delimiter, size = self._delimiter, 0
        kept = len(delimiter + _DASHES + _LINE_END)
        held = self.start
        while (place := held.find(delimiter)) < 0:
            ready = held[:-kept]
            if ready:
                yield ready
                held, size = held[len(ready) :], size + len(ready)
            chunk = await anext(chunks, b"")
            if not chunk:
                raise _malformed("$", "must end with the boundary of the form")
            held += chunk
        if size + place > max_bytes:
            raise PayloadTooLarge(f"The file is larger than {max_bytes} bytes.")
        while len(held) - place <= MAX_FORM_BYTES and (chunk := await anext(chunks, b"")):
            held += chunk
        if len(held) - place > MAX_FORM_BYTES:
            raise _malformed("file", "must be the last part of the form")
        _check_end(held[place:], delimiter, accepts)
        yield held


class _FormReader:
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.data = b""
        self.used = 0

    async def until(self, mark: bytes) -> bytes:
        """Return the bytes before *mark*, and continue behind it."""
        while (place := self.data.find(mark)) < 0:
            if self.used + len(self.data) > MAX_FORM_BYTES:
                raise _malformed("$", f"must begin its file within {MAX_FORM_BYTES} bytes")
            await self._read()
        found = self.data[:place]
        self._skip(place + len(mark))
        return found

    async def fill(self, size: int) -> None:
        """Read on until *size* bytes are there."""
        while len(self.data) < size:
            await self._read()

    async def _read(self) -> None:
        chunk = await anext(self._chunks, b"")
        if not chunk:
            raise _malformed("file", "must be given")
        self.data += chunk

    def _skip(self, size: int) -> None:
        self.data = self.data[size:]
        self.used += size


def boundary_of(content_type: str | None) -> bytes:
    """Return the boundary in the header `Content-Type`.

    Raises:
        UnsupportedMediaType: The body is not a form, or its boundary is not valid.
    """
    match = _BOUNDARY.match(content_type or "")
    found = (match[1] or match[2] or "") if match is not None else ""
    if _VALID_BOUNDARY.fullmatch(found) is None:
        reason = "must be multipart/form-data with a boundary"
        raise UnsupportedMediaType([Detail("content-type", reason)])
    return found.encode()


async def open_form(
    chunks: AsyncIterator[bytes], boundary: bytes, length: int, start_bytes: int
) -> FormFile:
    """Read a form of *length* bytes up to the first *start_bytes* of its file.

    Raises:
        MalformedRequest: It is not a form with a file, or is too long before the file.
    """
    reader = _FormReader(chunks)
    if await reader.until(_DASHES + boundary + _LINE_END):
        raise _malformed("$", "must begin with the boundary of the form")
    fields: dict[str, str] = {}
    while True:
        head = await reader.until(_LINE_END + _LINE_END)
        parameters, content_type = _read_head(head)
        if parameters.get("name") == "file":
            break
        value = await reader.until(_LINE_END + _DASHES + boundary)
        fields[parameters.get("name", "")] = value.decode(errors="replace")
        if await reader.until(_LINE_END):
            raise _malformed("file", "must be given")
    rest_length = length - reader.used
    # Further bytes show whether the first ones already belong to the delimiter.
    delimiter = _LINE_END + _DASHES + boundary
    await reader.fill(min(start_bytes + len(delimiter), rest_length))
    return FormFile(
        boundary=boundary,
        fields=fields,
        name=parameters.get("filename", ""),
        content_type=content_type,
        start=reader.data,
        first_bytes=reader.data.partition(delimiter)[0][:start_bytes],
        rest_length=rest_length,
    )


def form_head(boundary: bytes, fields: Mapping[str, str], content_type: str) -> bytes:
    """Return a form up to the first byte of its file.

    The file is called `media`: the name that the client gave it can hold personal data.
    """
    begin = f"--{boundary.decode()}\r\nContent-Disposition: form-data; name="
    parts = [f'{begin}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
    parts.append(f'{begin}"file"; filename="media"\r\nContent-Type: {content_type}\r\n\r\n')
    return "".join(parts).encode()


def _check_end(end: bytes, delimiter: bytes, accepts: AcceptsField) -> None:
    """Refuse *end*, which follows the file, unless it has accepted fields and an end only."""
    *parts, last = end.split(delimiter)[1:]
    if last not in (_DASHES, _DASHES + _LINE_END):
        is_cut = not parts and len(last) <= len(_DASHES + _LINE_END)
        path = "$" if is_cut else "file"
        reason = "must end with the boundary of the form" if is_cut else "must be the last part"
        raise _malformed(path, reason)
    for part in parts:
        head, mark, value = part.partition(_LINE_END + _LINE_END)
        parameters, _ = _read_head(head.removeprefix(_LINE_END))
        is_field = mark and head.startswith(_LINE_END) and "filename" not in parameters
        text = value.decode(errors="replace")
        if not is_field or not accepts(parameters.get("name", ""), text):
            raise _malformed("file", "must be the last part of the form, but for known fields")


def _read_head(head: bytes) -> tuple[dict[str, str], str]:
    parameters: dict[str, str] = {}
    content_type = ""
    for line in head.decode(errors="replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            parameters = {
                found[1].lower(): found[2] or found[3] or "" for found in _PARAMETER.finditer(value)
            }
        elif name.strip().lower() == "content-type":
            content_type = value.strip()
    return parameters, content_type


def _malformed(path: str, reason: str) -> MalformedRequest:
    return MalformedRequest("malformed_body", _MALFORMED, [Detail(path, reason)])
