"""The ASGI application with a span for each request, for a sink that receives spans."""

from collections.abc import Sequence

from typing_extensions import override

from wats.telemetry.spans import Tracer
from wats.web.app import Web
from wats.web.auth import Authenticator
from wats.web.exchange import Receive, Scope, Send, header_values
from wats.web.parts import Parts
from wats.web.routing import Route
from wats.web.webhooks import WebhookClient


class TracedWeb(Web):
    """Serves HTTP requests, each as a span that continues the trace of its client.

    `traceparent` is not authenticated: any client can choose the trace and whether it is sampled.
    """

    def __init__(
        self, table: Sequence[Route], authenticator: Authenticator, parts: Parts, *, tracer: Tracer
    ) -> None:
        super().__init__(table, authenticator, parts)
        self._tracer = tracer

    @override
    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        traceparent = b", ".join(header_values(scope["headers"], b"traceparent"))
        with self._tracer.request(traceparent.decode("latin-1")):
            await super().serve(scope, receive, send)

    @override
    def take_webhook(self, body: bytes, signature: str | None, client: WebhookClient) -> None:
        # A head with a traceparent takes the slow path.
        with self._tracer.request():
            super().take_webhook(body, signature, client)
