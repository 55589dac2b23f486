"""Traces from requests to Graph calls and handlers, as a receiver of OTLP gets them."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import pytest
from apsw import Connection
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.settings import HOOK
from wats import current_span
from wats.config import GraphConfig
from wats.inbound.updates import Update
from wats.telemetry.otel import from_environment
from wats.testing import CapturingTelemetrySink, sign

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{CALLER}-01"
NOT_SAMPLED = f"00-{TRACE}-{CALLER}-00"
SEND = {"to": "15550004711", "text": "Hello"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, receiver: Any) -> pytest.MonkeyPatch:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    return monkeypatch


@asynccontextmanager
async def traced(open_gateway: Any, **options: Any) -> AsyncIterator[Any]:
    """Run a gateway that exports spans, all of them by the end of the block."""
    sink = from_environment()
    async with open_gateway(app_options={"telemetry_sink": sink}, **options) as gateway:
        gateway.simulator.set_webhook(None)
        yield gateway
    await asyncio.to_thread(sink.close)


async def send(gateway: Any, traceparent: str | None = None) -> None:
    headers = {} if traceparent is None else {"traceparent": traceparent}
    answer = await gateway.ask("POST", "/api/messages/text", SEND, headers=headers)
    assert answer.status == 200


def envelope(number: int = 1) -> dict[str, Any]:
    message = {
        "id": f"wamid.{number}",
        "from": "15550004711",
        "timestamp": "1790000000",
        "type": "text",
        "text": {"body": "Hello"},
    }
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15551234567", "phone_number_id": "15551234567"},
        "messages": [message],
    }
    change = {"field": "messages", "value": value}
    return {
        "object": "whatsapp_business_account",
        "entry": [{"id": "123456789012345", "changes": [change]}],
    }


def named(receiver: Any) -> Mapping[str, Span]:
    """Return the spans by name, which must be different."""
    spans = {span.name: span for span in receiver.spans}
    assert len(spans) == len(receiver.spans)
    return spans


def below(span: Span, parent: Span) -> bool:
    return (span.trace_id, span.parent_span_id) == (parent.trace_id, parent.span_id)


async def test_a_graph_call_is_below_its_request_which_continues_the_trace_of_the_client(
    open_gateway, receiver, environment
) -> None:
    async with traced(open_gateway) as gateway:
        await send(gateway, SAMPLED)

    spans = named(receiver)
    request, call = spans["wats.http.request"], spans["wats.graph.request"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, CALLER)
    assert below(call, request)


@pytest.mark.parametrize("traceparent", [None, SAMPLED.upper(), f"{SAMPLED}, {SAMPLED}"])
async def test_a_request_without_a_valid_traceparent_begins_a_trace(
    open_gateway, receiver, environment, traceparent
) -> None:
    async with traced(open_gateway) as gateway:
        await send(gateway, traceparent)

    spans = named(receiver)
    request = spans["wats.http.request"]
    assert request.parent_span_id == b""
    assert request.trace_id.hex() != TRACE
    assert below(spans["wats.graph.request"], request)


async def test_two_requests_on_one_connection_are_two_traces(
    open_gateway, receiver, environment
) -> None:
    async with traced(open_gateway) as gateway:
        await send(gateway)
        await send(gateway)

    requests = [span for span in receiver.spans if span.name == "wats.http.request"]
    calls = [span for span in receiver.spans if span.name == "wats.graph.request"]
    assert len({span.trace_id for span in requests}) == 2
    assert [below(call, request) for call, request in zip(calls, requests, strict=True)] == [
        True,
        True,
    ]


async def test_a_trace_that_the_client_does_not_sample_is_not_exported(
    open_gateway, receiver, environment
) -> None:
    async with traced(open_gateway) as gateway:
        await send(gateway, NOT_SAMPLED)

    assert [span.name for span in receiver.spans if span.name.endswith("request")] == []


async def test_a_request_and_its_graph_call_are_sampled_together(
    open_gateway, receiver, environment
) -> None:
    environment.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    environment.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    async with traced(open_gateway) as gateway:
        for _ in range(40):
            await send(gateway)

    of_requests = [s.trace_id for s in receiver.spans if s.name == "wats.http.request"]
    of_calls = [s.trace_id for s in receiver.spans if s.name == "wats.graph.request"]
    assert sorted(of_requests) == sorted(of_calls)
    assert 0 < len(of_requests) < 40


class Noting:
    """A handler that notes its span, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.traceparents: list[str | None] = []

    async def __call__(self, update: Update) -> None:
        span = current_span()
        self.traceparents.append(span.context.traceparent if span is not None else None)
        if len(self.traceparents) <= self.failures:
            raise ValueError


@pytest.mark.parametrize("has_store", [True, False])
@pytest.mark.parametrize("traceparent", [None, SAMPLED])
async def test_an_attempt_of_a_handler_is_a_trace_of_its_own_with_a_link_to_the_webhook(
    open_gateway, receiver, environment, until, has_store, traceparent
) -> None:
    handler = Noting()
    async with traced(open_gateway, handlers=[handler], has_store=has_store) as gateway:
        body = json.dumps(envelope()).encode()
        headers = {"x-hub-signature-256": sign(body)}
        headers |= {} if traceparent is None else {"traceparent": traceparent}
        answer = await gateway.ask("POST", HOOK, body, token=None, headers=headers)
        await until(lambda: handler.traceparents)

    spans = named(receiver)
    request, attempt = spans["wats.http.request"], spans["wats.dispatch"]
    assert answer.status == 200
    assert request.parent_span_id.hex() == ("" if traceparent is None else CALLER)
    assert [(link.trace_id, link.span_id) for link in attempt.links] == [
        (request.trace_id, request.span_id)
    ]
    assert attempt.trace_id != request.trace_id
    assert attempt.parent_span_id == b""
    assert handler.traceparents == [f"00-{attempt.trace_id.hex()}-{attempt.span_id.hex()}-01"]


async def test_the_attempts_of_two_processes_are_linked_to_the_request_that_stored_the_update(
    open_gateway, receiver, environment, until
) -> None:
    first = Noting(failures=1)
    async with traced(open_gateway, handlers=[first]) as gateway:
        await gateway.webhook(envelope())
        await until(lambda: first.traceparents)
    second = Noting()

    async with traced(open_gateway, handlers=[second]):
        await until(lambda: second.traceparents)

    (request,) = [span for span in receiver.spans if span.name == "wats.http.request"]
    attempts = [span for span in receiver.spans if span.name == "wats.dispatch"]
    links = [(link.trace_id, link.span_id) for span in attempts for link in span.links]
    assert links == [(request.trace_id, request.span_id)] * 2
    assert len({span.trace_id for span in attempts}) == 2


async def test_webhooks_that_are_stored_together_have_spans_of_their_own(
    open_gateway, receiver, environment, until
) -> None:
    handler = Noting()
    async with traced(open_gateway, handlers=[handler]) as gateway:
        await asyncio.gather(*(gateway.webhook(envelope(number)) for number in range(20)))
        await until(lambda: len(handler.traceparents) == 20)

    requests = {span.span_id for span in receiver.spans if span.name == "wats.http.request"}
    attempts = [span for span in receiver.spans if span.name == "wats.dispatch"]
    assert len(requests) == 20
    assert {link.span_id for span in attempts for link in span.links} == requests


async def test_messages_of_a_handler_are_a_part_of_its_trace(
    open_gateway, receiver, environment, until
) -> None:
    sent = []

    async def reply(update: Update) -> None:
        span = current_span()
        assert span is not None
        await send(opened[0], span.context.traceparent)
        sent.append(update.key)

    opened: list[Any] = []
    async with traced(open_gateway, handlers=[reply]) as gateway:
        opened.append(gateway)
        await gateway.webhook(envelope())
        await until(lambda: sent)

    (attempt,) = [span for span in receiver.spans if span.name == "wats.dispatch"]
    of_attempt = [span for span in receiver.spans if span.trace_id == attempt.trace_id]
    names = {span.name: span for span in of_attempt}
    assert below(names["wats.http.request"], attempt)
    assert below(names["wats.graph.request"], names["wats.http.request"])


class Recorder:
    """A Graph that keeps the bytes of requests and accepts each."""

    def __init__(self) -> None:
        self.received = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"messages":[{"id":"wamid.1"}]}'
        with suppress(asyncio.IncompleteReadError):  # the connection was closed
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                self.received += head + await reader.readexactly(length)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()


async def test_the_graph_call_of_a_reply_is_below_the_attempt_of_its_handler(
    open_gateway, receiver, environment, until
) -> None:
    async def answer(update: Update) -> None:
        await update.reply("Hello")

    async with traced(open_gateway, handlers=[answer]) as gateway:
        await gateway.webhook(envelope())
        await until(lambda: gateway.simulator.accepted)

    spans = named(receiver)
    assert below(spans["wats.graph.request"], spans["wats.dispatch"])


async def test_no_trace_is_passed_to_meta(open_gateway, receiver, environment) -> None:
    graph = Recorder()
    async with await asyncio.start_server(graph.serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        profile = {"graph": GraphConfig(api_version="v25.0", base_url=url)}
        async with traced(open_gateway, **profile) as gateway:
            headers = {"traceparent": SAMPLED, "tracestate": "vendor=canary", "baggage": "a=b"}
            answer = await gateway.ask("POST", "/api/messages/text", SEND, headers=headers)
        server.close()

    spans = named(receiver)
    assert answer.status == 200
    assert below(spans["wats.graph.request"], spans["wats.http.request"])
    received = graph.received.lower()
    for text in ("traceparent", "tracestate", "baggage", TRACE, "canary", CALLER):
        assert text.encode() not in received


class WithoutTraces:
    """A sink that receives spans, as they were before they had a place in a trace."""

    def __init__(self) -> None:
        self.spans: list[str] = []

    def increment_counter(self, *_: object) -> None:
        pass

    def record_histogram(self, *_: object) -> None:
        pass

    def record_span(self, name: str, start: object, end: object, attributes: object) -> None:
        self.spans.append(name)


def payloads(gateway: Any) -> list[bytes]:
    with closing(Connection(str(gateway.database))) as connection:
        return [row[0] for row in connection.execute("SELECT payload FROM wats_deliveries")]


@pytest.mark.parametrize(
    ("make_sink", "is_stored"),
    [(lambda: None, False), (WithoutTraces, False), (CapturingTelemetrySink, True)],
)
async def test_the_span_of_a_webhook_is_stored_for_a_sink_that_receives_traces_only(
    open_gateway, until, make_sink, is_stored
) -> None:
    sink, handler = make_sink(), Noting(failures=100)
    options = {"telemetry_sink": sink}
    async with open_gateway(app_options=options, handlers=[handler]) as gateway:
        await gateway.webhook(envelope())
        await until(lambda: handler.traceparents)
        stored = payloads(gateway)

    assert [b"traceparent" in payload for payload in stored] == [is_stored]
    assert (handler.traceparents[0] is not None) == is_stored
    if isinstance(sink, WithoutTraces):
        assert set(sink.spans) == {"wats.dispatch", "wats.http.request"}
