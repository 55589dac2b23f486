"""One request and its response between a connection and an ASGI application."""

import asyncio
from typing import Any, Final, Protocol

from wats.errors import WatsError
from wats.process.http.framing import Head
from wats.process.http.rendering import ResponseFraming, render
from wats.web.exchange import (
    ADMISSION_EXTENSION,
    HANG_UP_EXTENSION,
    HELD_EXTENSION,
    RESPOND_EXTENSION,
    STREAM_EXTENSION,
    Message,
    Response,
    ResponseBroken,
    Scope,
)
from wats.web.problems import INTERNAL_ERROR

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
DISCONNECT: Final = {"type": "http.disconnect"}

_JOINED_BYTES = 4096
"""A larger part of a response is written directly instead of being copied behind its head."""


class Exchange(Protocol):
    """The connection of a cycle."""

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that every response has."""

    @property
    def is_write_paused(self) -> bool:
        """Whether too many bytes are waiting for the client to read them."""

    @property
    def may_keep_alive(self) -> bool:
        """Whether another request can follow."""

    def read_body(self) -> tuple[bytes, bool]:
        """Return the unread part of the body that has arrived, and whether the body has ended.

        Raises:
            MalformedHTTP: The framing of the body is broken.
        """

    def is_crowded(self) -> bool:
        """Return whether the requests in progress leave few connections to others."""

    def hold(self, piece: bytes) -> None:
        """Keep *piece* of the body for the application, unless the request is given up."""

    def take_held(self) -> bytes:
        """Return the pieces that are kept, joined."""

    def begin_stream(self) -> None:
        """Give each wait for bytes of the body a deadline of its own."""

    def watch_hang_up(self) -> None:
        """End the connection when the client closes its side, instead of after the response."""

    def refresh(self) -> None:
        """Adapt deadline and flow control: the cycle began or stopped waiting for the body."""

    def write(self, data: bytes) -> None:
        """Send *data*."""

    def finish(self, *, keep_alive: bool) -> None:
        """Continue with the next request, or close the connection: the response is complete."""

    def abort(self) -> None:
        """End the connection: the response is broken."""


class Cycle:
    """One request: the events that the application receives and sends.

    Attributes:
        wants_body: Whether the application waits for bytes of the body that have not arrived.
        is_disconnected: Whether the client cannot be reached any more.
    """

    def __init__(self, connection: Exchange, head: Head) -> None:
        self._connection = connection
        self._head = head
        self._changed = asyncio.Event()
        self._must_continue = head.expects_continue
        self._has_whole_body = False
        # The class: an exception instance refers to its frames, and they to this cycle.
        self._error: type[WatsError] | None = None
        self._response: ResponseFraming | None = None
        self._is_written = False
        self._is_complete = False
        self.wants_body = False
        self.is_disconnected = False

    async def run(self, app: Any, scope: Scope) -> None:
        """Let *app* serve the request; its exceptions are contained."""
        # The scope is not kept: it refers to this cycle, which would become cyclic garbage.
        scope["extensions"] = {
            HELD_EXTENSION: {
                "add": self._connection.hold,
                "take": self._connection.take_held,
            },
            STREAM_EXTENSION: {"begin": self._connection.begin_stream},
            HANG_UP_EXTENSION: {"watch": self._connection.watch_hang_up},
            ADMISSION_EXTENSION: {"is_crowded": self._connection.is_crowded},
            RESPOND_EXTENSION: {"send": self._respond},
        }
        try:
            await app(scope, self.receive, self.send)
        except ResponseBroken:
            pass
        except BaseException as error:
            _report({"message": "The application failed.", "exception": error})
        else:
            if not self._is_complete and not self.is_disconnected:
                _report({"message": "The application returned without a complete response."})
        if self._is_complete or self.is_disconnected:
            return
        if self._is_written:
            self._connection.abort()
        else:
            self._fail()

    def _fail(self) -> None:
        data = render(self._connection.default_headers, INTERNAL_ERROR, keep_alive=False)
        is_head = self._head.method == b"HEAD"
        self._connection.write(data.removesuffix(INTERNAL_ERROR.body) if is_head else data)
        self._complete(keep_alive=False)

    def notice(self) -> None:
        """Check the conditions that `receive` and `send` wait for."""
        self._changed.set()

    def disconnect(self) -> None:
        """Report to the application that its client is gone."""
        self.is_disconnected = True
        self._changed.set()

    def shed(self, error: type[WatsError]) -> None:
        """Raise *error* where the application waits for the body."""
        self._error = error
        self._changed.set()

    async def receive(self) -> Message:
        """Return the next event of the request; part of ASGI.

        Raises:
            WatsError: The rest of the body cannot be read.
        """
        if self._must_continue and not (self._is_written or self.is_disconnected):
            self._must_continue = False
            self._connection.write(CONTINUE)
        while not (self.is_disconnected or self._is_complete):
            if self._error is not None:
                raise self._error()
            if not self._has_whole_body and (message := self._read()) is not None:
                return message
            await self._wait()
        return DISCONNECT

    def _read(self) -> Message | None:
        try:
            body, self._has_whole_body = self._connection.read_body()
        except WatsError as error:
            self._error = type(error)
            raise
        if not body and not self._has_whole_body:
            return None
        return {"type": "http.request", "body": body, "more_body": not self._has_whole_body}

    async def _wait(self) -> None:
        self._changed.clear()
        self.wants_body = not self._has_whole_body
        self._connection.refresh()
        try:
            await self._changed.wait()
        finally:
            self.wants_body = False

    async def _respond(self, response: Response) -> None:
        """Send the whole response: fast path of `send`, with the same bytes."""
        await self._until_writable()
        if self.is_disconnected:
            return
        keep_alive = self._head.keep_alive and self._connection.may_keep_alive
        default_headers = self._connection.default_headers
        self._connection.write(render(default_headers, response, keep_alive=keep_alive))
        self._complete(keep_alive=keep_alive)

    async def _until_writable(self) -> None:
        while self._connection.is_write_paused and not self.is_disconnected:
            self._changed.clear()
            await self._changed.wait()

    async def send(self, message: Message) -> None:
        """Send a part of the response; part of ASGI."""
        await self._until_writable()
        if self.is_disconnected:
            return
        if self._is_complete:
            raise RuntimeError("The response is already complete.")
        if self._response is None:
            _expect(message, "http.response.start")
            self._response = ResponseFraming(self._head, message)
        else:
            _expect(message, "http.response.body")
            self._send_body(self._response, message)

    def _send_body(self, response: "ResponseFraming", message: Message) -> None:
        body: bytes = message.get("body", b"")
        more = bool(message.get("more_body", False))
        data = response.frame(body, more=more)
        if not self._is_written:
            self._is_written = True
            response.keep_alive &= self._connection.may_keep_alive
            head = response.head(self._connection.default_headers)
            if len(data) <= _JOINED_BYTES:
                data = head + data
            else:
                self._connection.write(head)
        if data:
            self._connection.write(data)
        if not more:
            self._complete(keep_alive=response.keep_alive)

    def _complete(self, *, keep_alive: bool) -> None:
        self._is_written = self._is_complete = True
        self._changed.set()
        self._connection.finish(keep_alive=keep_alive)


def _expect(message: Message, kind: str) -> None:
    if message["type"] != kind:
        raise RuntimeError(f"Expected the ASGI message {kind!r}.")


def _report(context: dict[str, Any]) -> None:
    """Report a failure of the application to the loop, which logs it like that of a task."""
    asyncio.get_running_loop().call_exception_handler(context)
