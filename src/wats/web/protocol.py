"""The connection of `wats serve`: uvicorn's, with a cap on heads and a short way for webhooks.

A webhook POST in its usual form is answered from the parser's callbacks, without the scope, the
cycle and the messages of ASGI, which cost more than all that is done with the webhook but storing
it. Whatever is unusual about a request, down to its HTTP version, goes the long way. Both ways
give the same bytes; a test compares them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from wats.web.exchange import Response, headers_of

MAX_HEAD_BYTES = 64 * 1024
"""How long a request line with its headers may be. The parser alone would keep any amount."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The webhook route, for requests that need no routing.

    Attributes:
        path: The request target that it answers, as bytes on the wire.
        max_body_bytes: Longer bodies go the long way, which knows what to say.
        take: Answers the body and signature of a POST by calling what it is given.
        gone: Told that a client hung up before its POST was here as a whole.
    """

    path: bytes
    max_body_bytes: int
    take: Callable[[bytes, str | None, Callable[[Response], bool]], Awaitable[None]]
    gone: Callable[[], None]


class _Nobody:
    """Stands where uvicorn wakes an application that waits for a body: here nobody waits."""

    def set(self) -> None:
        pass


class WebhookCycle:
    """One webhook POST from its headers to its response; uvicorn asks it what it asks its own."""

    __slots__ = ("body", "disconnected", "keep_alive", "response_complete", "signature")

    message_event = _Nobody()

    def __init__(self, signature: str | None) -> None:
        self.signature = signature
        self.body = b""
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False


class GatewayProtocol(HttpToolsProtocol):
    """One connection. *hook* is the webhook route, if it is to be answered the short way."""

    def __init__(self, *arguments: Any, hook: Hook | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._hook = hook
        self._webhook: WebhookCycle | None = None
        self._in_head = True
        self._head_bytes = 0
        self._asked_at: float | None = self.loop.time()

    def is_waiting_since(self, moment: float) -> bool:
        """Tell whether a request that could have begun at *moment* is not here as a whole."""
        return self._asked_at is not None and self._asked_at < moment

    def hang_up(self) -> None:
        """Close the connection; whoever reads its request finds that the client is gone."""
        self.transport.close()

    @override
    def shutdown(self) -> None:
        # What has not arrived by now is not waited for: its client could take any time.
        if self._asked_at is not None:
            self.hang_up()
        super().shutdown()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._webhook is not None and self._hook is not None and self._asked_at is not None:
            self._hook.gone()
        super().connection_lost(exc)

    @override
    def on_message_begin(self) -> None:
        self._asked_at = self.loop.time()
        super().on_message_begin()

    @override
    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Request head is too large.")

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        self._webhook = self._usual_webhook()
        if self._webhook is None:
            super().on_headers_complete()
        else:
            self.cycle = self._webhook  # type: ignore[assignment]  # what is asked of it, it has

    @override
    def on_body(self, body: bytes) -> None:
        if self._webhook is None:
            super().on_body(body)
        else:
            self._webhook.body += body

    @override
    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes, self._asked_at = True, 0, None
        if self._webhook is None:
            super().on_message_complete()
            return
        task = self.loop.create_task(self._take(self._webhook))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _usual_webhook(self) -> WebhookCycle | None:
        """Return a cycle if the request is a webhook as Meta sends it, and nothing is before it."""
        hook = self._hook
        if (
            hook is None
            or self.url != hook.path
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
            or not self.parser.should_keep_alive()
            or self.parser.should_upgrade()
            or self.expect_100_continue
            or not self._is_idle()
        ):
            return None
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"")
        signature = headers.get(b"x-hub-signature-256")
        if signature is None or len(headers) < len(self.headers):  # none, or one of them twice
            return None
        if not length.isdigit() or not 0 < int(length[:20]) <= hook.max_body_bytes:
            return None
        return WebhookCycle(signature.decode("latin-1"))

    def _is_idle(self) -> bool:
        cycle: Any = self.cycle  # `None` before the first request, whatever uvicorn's types say
        return cycle is None or cycle.response_complete

    async def _take(self, cycle: WebhookCycle) -> None:
        assert self._hook is not None  # noqa: S101 - there is no cycle without it

        def reply(response: Response) -> bool:
            return self._reply(cycle, response)

        await self._hook.take(cycle.body, cycle.signature, reply)

    def _reply(self, cycle: WebhookCycle, response: Response) -> bool:
        if cycle.disconnected or self.transport.is_closing():
            return False
        lines = [STATUS_LINE[response.status]]
        for name, value in (*self.server_state.default_headers, *headers_of(response)):
            lines += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        self.transport.write(b"".join((*lines, b"\r\n", response.body)))
        cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()
        return True
