"""The connection of `wats serve`: HTTP/1.x requests, one at a time, from bytes to responses.

    bytes ──▸ head ──▸ body ──▸ fast path: `Hook.take` ──▸ response ──▸ next head
                └────▸ slow path: ASGI (`Cycle`) ────────▸ response ──┘

A webhook POST in its usual form takes the fast path, without the scope, the task and the messages
of ASGI, which cost more than all processing of the webhook except storing it. All other requests
take the slow path. Both give the same bytes; a test compares them.

While a request is being served, further bytes are held, not parsed, and above a limit not read.
"""

from typing import Final

from typing_extensions import override

from wats.errors import MalformedHTTP, Overloaded
from wats.process.http.admission import ARRIVING, CLOSING, IDLE, SERVING, UNSENT, State
from wats.process.http.connection import Connection
from wats.process.http.cycle import Cycle
from wats.process.http.framing import (
    HEAD_END,
    MAX_HEAD_BYTES,
    Body,
    Head,
    SizedBody,
    body_of,
    can_be_head,
    split_target,
    webhook_head_reader,
)
from wats.process.http.rendering import LastRendered
from wats.process.http.site import Site
from wats.web.exchange import Response, Scope
from wats.web.problems import as_response

_NO_BODY: Final = SizedBody(0)
_RENDERED: Final = LastRendered()


class GatewayProtocol(Connection):
    """One connection and its requests."""

    __slots__ = (
        "_body",
        "_cycle",
        "_has_skipped_line",
        "_hook",
        "_is_advancing",
        "_is_serving",
        "_pieces",
        "_read_webhook_head",
        "_request_bytes",
        "_signature",
        "_webhook_head",
    )

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._hook = site.hook
        self._read_webhook_head = webhook_head_reader(
            site.hook.path, reads_traces=site.hook.reads_traces
        )
        self._has_skipped_line = False
        self._webhook_head = b""  # on the fast path, until the body is there
        self._signature = ""
        self._body: Body = _NO_BODY
        self._pieces: list[bytes] = []
        self._request_bytes = 0  # of the head, and of the pieces of the body
        self._cycle: Cycle | None = None
        self._is_serving = False
        self._is_advancing = False

    @override
    def _current_state(self) -> State:
        if self.is_write_paused:
            return UNSENT
        if self._is_serving:
            wants_body = self._cycle is not None and self._cycle.wants_body
            return ARRIVING if wants_body else SERVING
        return ARRIVING if self._input or self._webhook_head else IDLE

    @override
    def _held_bytes(self) -> int:
        return self._request_bytes

    @override
    def _advance(self) -> None:
        if self._is_advancing:  # a response was given immediately
            return
        if self._cycle is not None:
            self._cycle.notice()
        self._is_advancing = True
        try:
            while not self._is_serving and self._step():
                pass
        except MalformedHTTP as error:
            self._refuse(error)
        finally:
            self._is_advancing = False
        self.refresh()

    def _step(self) -> bool:
        """Do the next thing; return whether there may be more to do."""
        if self.state is CLOSING:
            return False
        if self._webhook_head:
            return self._read_webhook()
        if self._place == len(self._input) or self.is_write_paused or self.is_last:
            return False
        if self._input.startswith(b"\r", self._place):
            self._skip_empty_line()
        end = self._input.find(HEAD_END, self._place)
        if end < 0:
            self._check_beginning(self._input[self._place :])
            return False
        self._read_head(end + len(HEAD_END))
        return True

    def _read_head(self, end: int) -> None:
        data, start = self._input, self._place
        if end - start > MAX_HEAD_BYTES:
            raise MalformedHTTP
        length, signature = self._read_webhook_head(data, start, end) or (0, "")
        if not 0 < length <= self._hook.max_body_bytes:
            head = Head(data[start:end])
            self._place, self._request_bytes = end, end - start
            self._body = body_of(head, end - start)
            self._serve(head)
        elif end + length <= len(data):
            self._place = end + length
            self._take(data[end : self._place], signature)
        else:
            self._place, self._request_bytes = end, end - start
            self._body = SizedBody(length)
            self._webhook_head, self._signature = data[start:end], signature

    def _skip_empty_line(self) -> None:
        """Ignore one empty line before a request, as RFC 9112, 2.2, requires."""
        if not self._has_skipped_line and self._input.startswith(b"\r\n", self._place):
            self._place += 2
            self._has_skipped_line = True

    def _check_beginning(self, data: bytes) -> None:
        is_half_a_line = data == b"\r" and not self._has_skipped_line
        if data and not is_half_a_line and not can_be_head(data):
            raise MalformedHTTP

    def _read_webhook(self) -> bool:
        piece, self._place = self._body.read(self._input, self._place)
        self.hold(piece)
        if not self._body.is_complete:
            return False
        body, self._webhook_head = self.take_held(), b""
        self._take(body, self._signature)
        return True

    def _take(self, body: bytes, signature: str) -> None:
        """Answer a webhook on the fast path."""
        self._is_serving = True
        self._hook.take(body, signature, self)

    def _serve(self, head: Head) -> None:
        """Let the application serve the request of *head*, on the slow path."""
        scope = self._scope_of(head)
        cycle = Cycle(self, head)
        self._webhook_head, self._cycle, self._is_serving = b"", cycle, True
        task = self._loop.create_task(cycle.run(self._site.app, scope))
        self._site.server.tasks.add(task)
        task.add_done_callback(self._site.server.tasks.discard)

    def _scope_of(self, head: Head) -> Scope:
        path, raw_path, query = split_target(head.target)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version.decode(),
            "method": head.method.decode("ascii"),
            "scheme": "http",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": head.headers,
            "server": self.server,
            "client": self.client,
            "state": self._site.lifespan_state.copy(),
        }

    def _refuse(self, error: MalformedHTTP) -> None:
        response = as_response(error)
        self._hook.refused(response.status)
        self.respond(response, keep_alive=False)

    @override
    def _release(self) -> None:
        if self._webhook_head:
            self._serve(Head(self._webhook_head))  # the application counts it without its client
        if self._cycle is not None:
            self._cycle.disconnect()
        self._forget_request()

    def _forget_request(self) -> None:
        self._webhook_head, self._cycle, self._body = b"", None, _NO_BODY
        self._pieces, self._request_bytes = [], 0

    def shed(self) -> None:
        """Give up the request that is arriving, or the connection, to free the bytes it holds."""
        if self.state is ARRIVING and self._webhook_head:
            self._serve(Head(self._webhook_head))
        if self.state is not ARRIVING or self._cycle is None:
            self.abort()
            return
        self._cycle.shed(Overloaded)
        self._input, self._place = b"", 0
        self._pieces, self._request_bytes = [], 0
        self.refresh()

    # Used by the response to a webhook

    @property
    def is_connected(self) -> bool:
        """Whether the client is still connected, as far as we know."""
        return self.state is not CLOSING and not self.transport.is_closing()

    def respond(self, response: Response, *, keep_alive: bool = True) -> None:
        """Send *response*; once. End the connection unless *keep_alive*, or if the server stops."""
        keep_alive = keep_alive and self.may_keep_alive
        default_headers = self._site.server.default_headers
        self.transport.write(_RENDERED.get(default_headers, response, keep_alive=keep_alive))
        self.finish(keep_alive=keep_alive)

    # Used by a cycle

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that every response has."""
        return self._site.server.default_headers

    @property
    def may_keep_alive(self) -> bool:
        """Whether another request can follow: the rest of an unread body may never arrive."""
        return self._body.is_complete and not self._site.is_draining

    def is_crowded(self) -> bool:
        """Return whether the requests in progress leave few connections to others."""
        return self._site.admission.is_crowded()

    def read_body(self) -> tuple[bytes, bool]:
        """Return the unread part of the body that has arrived, and whether the body has ended.

        Raises:
            MalformedHTTP: The framing of the body is broken.
        """
        body, self._place = self._body.read(self._input, self._place)
        self.refresh()
        return body, self._body.is_complete

    def hold(self, piece: bytes) -> None:
        """Keep *piece* of the body for the application, unless the request is given up."""
        self._pieces.append(piece)
        self._request_bytes += len(piece)

    def take_held(self) -> bytes:
        """Return the pieces that are kept, joined."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def write(self, data: bytes) -> None:
        """Send *data*."""
        self.transport.write(data)

    def finish(self, *, keep_alive: bool) -> None:
        """Continue with the next request, or end the connection: the response is complete."""
        self._site.server.total_requests += 1
        if self.state is CLOSING:
            return
        self._is_serving = self._has_skipped_line = False
        if self._body is not _NO_BODY:
            self._forget_request()
        self._wait_anew()
        if not keep_alive or self.is_last:
            self._linger()
        elif self._input:
            self._advance()
        else:
            self.refresh()
