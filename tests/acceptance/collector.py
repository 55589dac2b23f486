"""A receiver of OTLP over HTTP on loopback, for the tests of the export to OpenTelemetry."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver:
    """Receives exports over HTTP on loopback."""

    def __init__(self) -> None:
        self.exports: list[tuple[str, dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.exports.append((self.path, dict(self.headers), body))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def bodies(self, path: str) -> Iterator[bytes]:
        return (body for sent_to, _, body in self.exports if sent_to == path)

    @property
    def spans(self) -> list[Span]:
        requests = [ExportTraceServiceRequest.FromString(b) for b in self.bodies("/v1/traces")]
        resources = [r for request in requests for r in request.resource_spans]
        return [span for r in resources for scope in r.scope_spans for span in scope.spans]

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics by name, as they were exported last."""
        requests = [ExportMetricsServiceRequest.FromString(b) for b in self.bodies("/v1/metrics")]
        resources = [r for request in requests for r in request.resource_metrics]
        return {m.name: m for r in resources for scope in r.scope_metrics for m in scope.metrics}

    @property
    def resources(self) -> list[dict[str, Any]]:
        """The attributes of every resource that anything was exported for."""
        traces = [ExportTraceServiceRequest.FromString(b) for b in self.bodies("/v1/traces")]
        metrics = [ExportMetricsServiceRequest.FromString(b) for b in self.bodies("/v1/metrics")]
        found = [r.resource for request in traces for r in request.resource_spans]
        found += [r.resource for request in metrics for r in request.resource_metrics]
        return [plain(resource.attributes) for resource in found]


def plain(attributes: Any) -> dict[str, Any]:
    def value(of: AnyValue) -> Any:
        return getattr(of, of.WhichOneof("value") or "string_value")

    return {pair.key: value(pair.value) for pair in attributes}
