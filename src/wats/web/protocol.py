"""The connection of `wats serve`: uvicorn's, with a cap on heads and a short way for webhooks.

A webhook POST in its usual form is answered from the parser's callbacks, without the scope, the
cycle and the messages of ASGI, which cost more than all that is done with the webhook but storing
it. Whatever is unusual about a request, down to its HTTP version, goes the long way. Both ways
give the same bytes; a test compares them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from wats.web.exchange import Headers, Response, headers_of

MAX_HEAD_BYTES = 64 * 1024
"""How long a request line with its headers may be. The parser alone would keep any amount."""


class Asker(Protocol):
    """Who waits for the answer to a webhook."""

    @property
    def is_there(self) -> bool:
        """Whether an answer could still reach them."""

    def answer(self, response: Response) -> None:
        """Send them *response*."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The webhook route, for requests that need no routing.

    Attributes:
        path: The request target that it answers, as bytes on the wire.
        max_body_bytes: Longer bodies go the long way, which knows what to say.
        take: Answers the body and signature of a POST to its asker, at once or later.
        gone: Told that a client hung up before its POST was here as a whole.
    """

    path: bytes
    max_body_bytes: int
    take: Callable[[bytes, str | None, Asker], None]
    gone: Callable[[], None]


class _Nobody:
    """Stands where uvicorn wakes an application that waits for a body: here nobody waits."""

    def set(self) -> None:
        pass


class WebhookCycle:
    """One webhook POST from its headers to its response; uvicorn asks it what it asks its own."""

    __slots__ = (
        "_connection",
        "body",
        "disconnected",
        "keep_alive",
        "response_complete",
        "signature",
    )

    message_event = _Nobody()

    def __init__(self, connection: "GatewayProtocol", signature: str | None) -> None:
        self._connection = connection
        self.signature = signature
        self.body = b""
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False

    @property
    def is_there(self) -> bool:
        """Whether the client is still connected, as far as we know."""
        return not self.disconnected and not self._connection.transport.is_closing()

    def answer(self, response: Response) -> None:
        """Send *response*; once."""
        self.response_complete = True
        self._connection.send(response, keep_alive=self.keep_alive)


class GatewayProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        hook: The webhook route, if it is to be answered the short way.
        request_seconds: How long a request may take to arrive as a whole.
    """

    def __init__(
        self,
        *arguments: Any,
        hook: Hook | None = None,
        request_seconds: float = 30.0,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._hook = hook
        self._request_seconds = request_seconds
        self._webhook: WebhookCycle | None = None
        self._in_head = True
        self._head_bytes = 0
        self._is_asked = True  # a request could have begun
        self._deadline: float | None = self.loop.time() + request_seconds

    def is_overdue(self, now: float) -> bool:
        """Tell whether the client has taken too long: to send a request, or to begin another."""
        return self._deadline is not None and self._deadline < now

    def hang_up(self) -> None:
        """Close the connection; whoever reads its request finds that the client is gone."""
        self.transport.close()

    @override
    def shutdown(self) -> None:
        # What has not arrived by now is not waited for: its client could take any time.
        if self._is_asked:
            self.hang_up()
        super().shutdown()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._webhook is not None and self._hook is not None and self._is_asked:
            self._hook.gone()
        super().connection_lost(exc)

    @override
    def on_message_begin(self) -> None:
        self._is_asked = True
        self._deadline = self.loop.time() + self._request_seconds
        # What else uvicorn prepares here is for ASGI, and made when a request goes that way.
        self.url, self.headers = b"", []

    @override
    def on_response_complete(self) -> None:
        # As uvicorn has it, but for the timer that it arms and disarms around every request.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._is_asked:
            self._deadline = self.loop.time() + self.timeout_keep_alive

    @override
    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Request head is too large.")

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        self._webhook = self._usual_webhook()
        if self._webhook is None:
            self._go_the_long_way()
        else:
            self.cycle = self._webhook  # type: ignore[assignment]  # what is asked of it, it has

    def _go_the_long_way(self) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url, self.headers = url, headers
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        self.scope["headers"] = self.headers
        super().on_headers_complete()

    @override
    def on_body(self, body: bytes) -> None:
        if self._webhook is None:
            super().on_body(body)
        else:
            self._webhook.body += body

    @override
    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._is_asked, self._deadline = False, None
        webhook = self._webhook
        if webhook is None or self._hook is None:
            super().on_message_complete()
            return
        # What is read is not held while it is waited for: its memory is used for the next.
        body, webhook.body, self.headers = webhook.body, b"", []
        self._hook.take(body, webhook.signature, webhook)

    def _usual_webhook(self) -> WebhookCycle | None:
        """Return a cycle if the request is a webhook as Meta sends it, and nothing is before it."""
        hook = self._hook
        if (
            hook is None
            or self.url != hook.path
            or self.parser.get_method() != b"POST"
            or not self.parser.should_keep_alive()
            or not self._is_idle()
        ):
            return None
        headers = dict(self.headers)
        if b"expect" in headers:
            return None
        # A connection that is kept without a word about it is one of HTTP 1.1.
        if b"connection" in headers and (
            self.parser.get_http_version() != "1.1" or self.parser.should_upgrade()
        ):
            return None
        length = headers.get(b"content-length", b"")
        signature = headers.get(b"x-hub-signature-256")
        if signature is None or len(headers) < len(self.headers):  # none, or one of them twice
            return None
        if not length.isdigit() or not 0 < int(length[:20]) <= hook.max_body_bytes:
            return None
        return WebhookCycle(self, signature.decode("latin-1"))

    def _is_idle(self) -> bool:
        cycle: Any = self.cycle  # `None` before the first request, whatever uvicorn's types say
        return cycle is None or cycle.response_complete

    def send(self, response: Response, *, keep_alive: bool) -> None:
        """Send *response*, and close the connection after it unless it is to be kept."""
        self.transport.write(
            _RENDERED.get(self.server_state.default_headers, response, keep_alive=keep_alive)
        )
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()


class _Rendered:
    """A response as it goes over the wire, the last one: within a second most are the same."""

    def __init__(self) -> None:
        self._made_of: tuple[object, object, bool] = (None, None, False)
        self._data = b""

    def get(
        self, default_headers: list[tuple[bytes, bytes]], response: Response, *, keep_alive: bool
    ) -> bytes:
        """Return *response* as bytes; uvicorn makes a new list of *default_headers* each second."""
        headers, last, kept = self._made_of
        if headers is not default_headers or last is not response or kept is not keep_alive:
            self._data = _render(tuple(default_headers), response, keep_alive=keep_alive)
            self._made_of = default_headers, response, keep_alive
        return self._data


_RENDERED = _Rendered()


def _render(default_headers: Headers, response: Response, *, keep_alive: bool) -> bytes:
    lines = [STATUS_LINE[response.status]]
    for name, value in (*default_headers, *headers_of(response)):
        lines += (name, b": ", value, b"\r\n")
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    return b"".join((*lines, b"\r\n", response.body))
