"""Responses on the wire. No I/O."""

import http
import re
from functools import lru_cache

from wats.process.http.framing import Head
from wats.web.exchange import Message, Response, headers_of

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode())
    for status in http.HTTPStatus
}
_BAD_NAME = re.compile(rb'[\x00-\x20\x7f-\xff()<>@,;:\\\[\]={}"/?]')
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@lru_cache(maxsize=256)
def _field_name(name: bytes) -> bytes:
    """Return *name* in lower case. Responses use a few names, so each is checked once."""
    if not name or _BAD_NAME.search(name):
        raise RuntimeError("Invalid name of a header in a response.")
    return name.lower()


def status_line(status: int) -> bytes:
    """Return the first line of a response."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def render(
    default_headers: list[tuple[bytes, bytes]], response: Response, *, keep_alive: bool
) -> bytes:
    """Return *response* in its wire format."""
    lines = [status_line(response.status)]
    for name, value in (*default_headers, *headers_of(response)):
        lines += (name, b": ", value, b"\r\n")
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    return b"".join((*lines, b"\r\n", response.body))


class LastRendered:
    """Renders responses and keeps the last one: within a second most are the same."""

    def __init__(self) -> None:
        self._made_of: tuple[object, object, bool] = (None, None, False)
        self._data = b""

    def get(
        self, default_headers: list[tuple[bytes, bytes]], response: Response, *, keep_alive: bool
    ) -> bytes:
        """Return *response* as bytes; uvicorn makes a new list of *default_headers* each second."""
        headers, last, kept = self._made_of
        if headers is not default_headers or last is not response or kept is not keep_alive:
            self._data = render(default_headers, response, keep_alive=keep_alive)
            self._made_of = default_headers, response, keep_alive
        return self._data


class ResponseFraming:
    """The head of a response, and how its body is delimited.

    Raises:
        RuntimeError: The application gave an invalid header or length.
    """

    def __init__(self, head: Head, message: Message) -> None:
        self._status: int = message["status"]
        self._lines: list[bytes] = []
        self._left: int | None = None
        self._is_chunked = False
        self.keep_alive = head.keep_alive
        for name, value in message.get("headers", ()):
            self._add(_field_name(bytes(name)), bytes(value))
        self._has_body = head.method != b"HEAD" and self._status not in (204, 304)
        if self._has_body and self._left is None:
            self._is_chunked = head.version == b"1.1"
            self.keep_alive &= self._is_chunked

    def _add(self, name: bytes, value: bytes) -> None:
        if _BAD_VALUE.search(value):
            raise RuntimeError("Invalid value of a header in a response.")
        if name == b"content-length":
            if self._left is not None or not value.isdigit():
                raise RuntimeError("Invalid Content-Length in a response.")
            self._left = int(value)
        elif name == b"transfer-encoding":
            return  # how the body is framed is decided here
        elif name == b"connection":
            if b"close" in (token.strip().lower() for token in value.split(b",")):
                self.keep_alive = False
            return
        self._lines.append(name + b": " + value + b"\r\n")

    def head(self, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the head of the response."""
        lines = [status_line(self._status)]
        lines += [name + b": " + value + b"\r\n" for name, value in default_headers]
        lines += self._lines
        if self._is_chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        return b"".join((*lines, b"\r\n"))

    def frame(self, body: bytes, *, more: bool) -> bytes:
        """Return a part of the body in its wire format.

        Raises:
            RuntimeError: The body is not as long as its `Content-Length`.
        """
        if not self._has_body:
            return b""
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("The body is not as long as its Content-Length.")
        if not self._is_chunked:
            return body
        chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        return chunk if more else chunk + b"0\r\n\r\n"
