"""The export to OpenTelemetry, as seen by a receiver of OTLP over HTTP."""

import asyncio
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from wats.inbound.updates import Update
from wats.telemetry.otel import from_environment
from wats.version import __version__

pytestmark = pytest.mark.long

CANARY = "canary"
PHONE = "15550004711"
SINK = "wats.telemetry.otel:from_environment"
REFUSED = "15550000006"
"""A recipient to whom the simulated Graph sends nothing."""


def counts(metric: Any) -> int:
    points = metric.histogram.data_points or metric.sum.data_points
    return sum(getattr(point, "count", 0) or getattr(point, "as_int", 0) for point in points)


@pytest.fixture
def nowhere() -> str:
    """An address without a listener."""
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def silence() -> Iterator[str]:
    """An address that accepts connections and never responds."""
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"


class Failing:
    """A handler whose errors hold personal data, in text and in class name."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, update: Update) -> None:
        self.calls += 1
        raise type(CANARY, (ValueError,), {})(f"{CANARY} {PHONE}")


def message(text: str = CANARY) -> dict[str, Any]:
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": PHONE, "phone_number_id": "15551234567"},
        "contacts": [{"profile": {"name": CANARY}, "wa_id": PHONE}],
        "messages": [
            {
                "id": f"wamid.{CANARY}",
                "from": PHONE,
                "timestamp": "1790000000",
                "type": "text",
                "text": {"body": text},
            }
        ],
    }
    change = {"field": "messages", "value": value}
    return {
        "object": "whatsapp_business_account",
        "entry": [{"id": "123456789012345", "changes": [change]}],
    }


async def a_bit_of_everything(gateway: Any) -> list[int]:
    """Send requests that succeed and requests that fail, and return the responses."""
    answers = [
        await gateway.webhook(message()),
        await gateway.webhook(b"{" + CANARY.encode()),
        await gateway.send_text(PHONE, CANARY),
        await gateway.send_text(REFUSED, CANARY),
        await gateway.ask("GET", f"/api/messages/{CANARY}?{CANARY}={PHONE}"),
        await gateway.ask("GET", f"/{CANARY}", token=CANARY),
        await gateway.ask("PROPFIND", "/healthz", headers={"x-header": CANARY}),
    ]
    return [answer.status for answer in answers]


@pytest.mark.parametrize(
    ("opt_in", "requests"),
    [("", "http_request_duration_seconds"), ("http", "http.server.request.duration")],
)
async def test_a_receiver_gets_metrics_and_spans_of_all_that_happened(
    open_gateway, receiver, environment, opt_in, requests
) -> None:
    environment.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)
    sink = from_environment()
    async with open_gateway(app_options={"telemetry_sink": sink}) as gateway:
        gateway.simulator.set_webhook(None)
        answers = await a_bit_of_everything(gateway)

    await asyncio.to_thread(sink.close)

    kinds = [span.kind for span in receiver.spans]
    assert counts(receiver.metrics[requests]) == len(answers)
    assert counts(receiver.metrics["graph_operations_total"]) == 2
    assert kinds.count(Span.SPAN_KIND_SERVER) == len(answers)
    assert kinds.count(Span.SPAN_KIND_CLIENT) == 2
    assert all(0 < s.start_time_unix_nano <= s.end_time_unix_nano for s in receiver.spans)


async def test_no_personal_data_and_no_exception_text_is_exported(
    open_gateway, receiver, environment, until, capsys
) -> None:
    environment.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    sink, handler = from_environment(), Failing()
    options = {"telemetry_sink": sink}
    async with open_gateway(app_options=options, handlers=[handler]) as gateway:
        gateway.simulator.set_webhook(None)
        await a_bit_of_everything(gateway)
        await until(lambda: handler.calls)
    await asyncio.to_thread(sink.close)

    sent = b"".join(body for _, _, body in receiver.exports)
    headers = json.dumps([headers for _, headers, _ in receiver.exports])
    assert b"http.server.request.duration" in sent
    for secret in (CANARY, PHONE, REFUSED, "15551234567", "123456789012345"):
        assert secret.encode() not in sent
        assert secret not in headers
    assert not any(span.events or span.status.message for span in receiver.spans)
    out, err = capsys.readouterr()
    assert CANARY not in out + err


async def test_the_resource_names_the_service_but_no_host(
    open_gateway, receiver, environment
) -> None:
    sink = from_environment()
    async with open_gateway(app_options={"telemetry_sink": sink}) as gateway:
        await gateway.ask("GET", "/healthz")
    await asyncio.to_thread(sink.close)

    (resource, *others) = receiver.resources
    assert all(other == resource for other in others)
    assert {**resource, "service.instance.id": ""} == {
        "service.name": "wats",
        "service.version": __version__,
        "service.instance.id": "",
    }
    assert re.fullmatch(
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", resource["service.instance.id"]
    )


async def test_the_operator_names_the_service_and_sends_headers_of_their_own(
    open_gateway, receiver, environment
) -> None:
    environment.setenv("OTEL_SERVICE_NAME", "support")
    environment.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")
    environment.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
    sink = from_environment()
    async with open_gateway(app_options={"telemetry_sink": sink}) as gateway:
        await gateway.ask("GET", "/healthz")
    await asyncio.to_thread(sink.close)

    named = {(r["service.name"], r["deployment.environment.name"]) for r in receiver.resources}
    sent = {{name.lower(): v for name, v in h.items()}["x-tenant"] for _, h, _ in receiver.exports}
    assert (named, sent) == ({("support", "staging")}, {"blue"})


@pytest.mark.parametrize(
    ("variable", "paths"),
    [
        ("OTEL_TRACES_EXPORTER", {"/v1/metrics"}),
        ("OTEL_METRICS_EXPORTER", {"/v1/traces"}),
    ],
)
async def test_a_signal_that_is_not_wanted_is_not_exported(
    open_gateway, receiver, environment, variable, paths
) -> None:
    environment.setenv(variable, "none")
    sink = from_environment()
    async with open_gateway(app_options={"telemetry_sink": sink}) as gateway:
        await gateway.ask("GET", "/healthz")
    await asyncio.to_thread(sink.close)

    assert {path for path, _, _ in receiver.exports} == paths


@pytest.mark.parametrize("endpoint", ["nowhere", "silence"])
async def test_a_dead_endpoint_changes_no_response_and_delays_no_shutdown(
    open_gateway, monkeypatch, request, until, endpoint
) -> None:
    async with open_gateway() as gateway:
        gateway.simulator.set_webhook(None)
        usual = await a_bit_of_everything(gateway)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", request.getfixturevalue(endpoint))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "1")
    sink = from_environment()

    async with open_gateway(app_options={"telemetry_sink": sink}) as gateway:
        gateway.simulator.set_webhook(None)
        answers = await a_bit_of_everything(gateway)
    began = time.monotonic()
    await asyncio.to_thread(sink.close, 0.5)
    took = time.monotonic() - began
    await until(lambda: not any(t.name.startswith("Otel") for t in threading.enumerate()))

    assert answers == usual
    assert took < 1.0


def log_lines(errors: str) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in errors.splitlines()]


async def ask(url: str, times: int) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(times):
            async with session.get(f"{url}/healthz") as answer:
                assert answer.status == 200


async def test_a_service_of_a_config_file_exports_telemetry_until_it_ends(serve, receiver) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}

    async with serve("http://127.0.0.1:9", environ, telemetry={"sink": SINK}) as process:
        await ask(process.url, 5)
        code, _ = await process.terminate()

    assert (code, process.errors.read_text()) == (0, "")
    assert counts(receiver.metrics["http_request_duration_seconds"]) == 5
    assert sum(span.name == "wats.http.request" for span in receiver.spans) == 5


async def test_a_service_without_an_endpoint_runs_and_exports_nothing(serve) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}

    async with serve("http://127.0.0.1:9", environ, telemetry={"sink": SINK}) as process:
        await ask(process.url, 1)
        code, _ = await process.terminate()

    assert (code, process.errors.read_text()) == (0, "")


async def test_a_service_whose_endpoint_is_dead_ends_in_time_and_logs_no_exception_text(
    serve, nowhere
) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": nowhere,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {CANARY}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
    }

    async with serve("http://127.0.0.1:9", environ, telemetry={"sink": SINK}) as process:
        await ask(process.url, 5)
        code, _ = await process.terminate()

    lines = log_lines(process.errors.read_text())
    assert code == 0
    assert {line["event"] for line in lines} == {"wats.library.log"}
    assert {line["library"] for line in lines} == {"opentelemetry"}
    assert not any(CANARY in str(line) or nowhere in str(line) for line in lines)


async def test_serving_without_a_sink_never_looks_for_opentelemetry() -> None:
    refuse = (
        "import os, sys\n"
        "def audit(event, args):\n"
        "    if event == 'import' and args[0].startswith('opentelemetry'): os._exit(99)\n"
        "sys.addaudithook(audit)\n"
        "from wats.cli import main\n"
        "main()\n"
    )
    command = (sys.executable, "-c", refuse, "serve", "--sandbox", "--port", "0")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    await ask(json.loads(line)["url"], 1)

    process.terminate()

    assert await process.wait() == 0
