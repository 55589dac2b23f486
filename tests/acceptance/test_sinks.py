"""No failure of an operator's sink changes a response of the service."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from wats.log import write_json_line
from wats.testing import CapturingTelemetrySink

CANARY = "canary-in-an-exception"


class WellBehaved:
    """A sink that records nothing."""

    def increment_counter(self, name: str, value: int, attributes: Any) -> None:
        pass

    def record_histogram(self, name: str, value_seconds: float, attributes: Any) -> None:
        pass


class Raising(WellBehaved):
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def increment_counter(self, name: str, value: int, attributes: Any) -> None:
        raise self._error

    record_histogram = increment_counter


class Failing:
    """Its methods are coroutine functions, and their coroutines fail."""

    async def increment_counter(self, name: str, value: int, attributes: Any) -> None:
        await asyncio.sleep(0)
        raise RuntimeError(CANARY)

    record_histogram = increment_counter


class Strange(WellBehaved):
    """Returns an awaitable that fails when it is awaited."""

    class Broken(Awaitable[None]):
        def __await__(self) -> Any:
            raise RuntimeError(CANARY)

    def increment_counter(self, name: str, value: int, attributes: Any) -> Any:
        return self.Broken()


class Slow(WellBehaved):
    def increment_counter(self, name: str, value: int, attributes: Any) -> None:
        time.sleep(0.01)


class Stuck:
    """Its coroutines never end."""

    async def increment_counter(self, name: str, value: int, attributes: Any) -> None:
        await asyncio.Event().wait()

    record_histogram = increment_counter


class Greedy(WellBehaved):
    """Changes the attributes it receives, if it can."""

    def increment_counter(self, name: str, value: int, attributes: Any) -> None:
        attributes["http.route"] = CANARY

    record_histogram = increment_counter


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError(CANARY)

    __repr__ = __str__


class Base(BaseException):
    pass


SINKS = {
    "raises": lambda: Raising(ValueError(CANARY)),
    "raises-what-cannot-be-shown": lambda: Raising(Unspeakable(CANARY)),
    "raises-no-exception": lambda: Raising(Base(CANARY)),
    "raises-cancelled": lambda: Raising(asyncio.CancelledError(CANARY)),
    "raises-stop-iteration": lambda: Raising(StopIteration(CANARY)),
    "raises-generator-exit": lambda: Raising(GeneratorExit(CANARY)),
    "raises-a-class-named-by-a-customer": lambda: Raising(type(CANARY, (Exception,), {})()),
    "failing-coroutine": Failing,
    "broken-awaitable": Strange,
    "slow": Slow,
    "stuck-coroutine": Stuck,
    "changes-attributes": Greedy,
}
LINES = {"event", "method", "errorName", "suppressed", "at"}


async def conversation(open_gateway, sink: Any) -> list[Any]:
    """Return all responses of a service with *sink* to a sample of every request."""
    envelope = {
        "object": "whatsapp_business_account",
        "entry": [
            {
                "id": "123456789012345",
                "time": 1_790_000_000,
                "changes": [{"field": "account_update", "value": {"event": "X"}}],
            }
        ],
    }
    options = {"telemetry_sink": sink, "log": write_json_line}
    async with open_gateway(app_options=options) as gateway:
        gateway.simulator.set_webhook(None)
        answers = [
            await gateway.webhook(envelope),
            await gateway.webhook(envelope),
            await gateway.webhook(envelope, signature="sha256=0"),
            await gateway.send_text("15550000006"),
            await gateway.send_text("15550001234", key="k"),
            await gateway.send_text("15550001234", key="k"),
            await gateway.ask("GET", "/api/messages/unknown"),
            await gateway.ask("GET", "/nowhere"),
            await gateway.ask("HEAD", "/metrics"),
            await gateway.ask("PUT", "/status"),
            await gateway.ask("GET", "/healthz", token=None),
        ]
        counted = await gateway.samples("http_requests_total{")
        assert sum(counted.values()) == len(answers)
    return [comparable(answer) for answer in answers]


def comparable(answer: Any) -> Any:
    """Return *answer* without its variable parts: dates, ids of messages, and numbers."""
    body = re.sub(rb'"(wamid\.[^"]+|fbtraceId":"[^"]+)"', b"-", answer.body)
    names = [name for name in answer.headers if name.lower() not in {"date", "content-length"}]
    return answer.status, body, [(name, answer.headers[name]) for name in names]


@pytest.fixture(scope="module")
async def usual(open_another_gateway) -> list[Any]:
    return await conversation(open_another_gateway, None)


@pytest.mark.parametrize("make", SINKS.values(), ids=SINKS)
async def test_a_sink_changes_no_response(open_gateway, usual, capsys, make) -> None:
    capsys.readouterr()

    answers = await conversation(open_gateway, make())

    assert answers == usual
    out, err = capsys.readouterr()
    assert (out, CANARY in err) == ("", False)
    for line in err.splitlines():
        event = json.loads(line)
        if event["event"] == "wats.telemetry.sink.error":
            assert event.keys() == LINES
            assert re.fullmatch(r"[A-Za-z_]\w{0,79}", event["errorName"])
            assert event["method"] in {"increment_counter", "record_histogram"}


async def test_a_failing_sink_is_logged_once_per_class(open_gateway, capsys) -> None:
    await conversation(open_gateway, Raising(ValueError(CANARY)))

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    failures = [line for line in lines if line["event"] == "wats.telemetry.sink.error"]
    assert [line["errorName"] for line in failures] == ["ValueError"]


async def test_a_sink_receives_the_counts_that_the_scraper_sees(open_gateway) -> None:
    sink = CapturingTelemetrySink()
    async with open_gateway(app_options={"telemetry_sink": sink}) as gateway:
        gateway.simulator.set_webhook(None)
        await gateway.send_text("15550001234")
        await gateway.send_text("15550000006")
        await gateway.send_text("15550001234", key="k")

        samples = await gateway.samples()

    for family in ("http_requests_total", "send_outcomes_total", "graph_operations_total"):
        seen = sum(count for series, count in samples.items() if series.startswith(family + "{"))
        received = [call for call in sink.counters if call.name == family]
        # The scrape itself is counted after its own exposition.
        assert len(received) - (family == "http_requests_total") == seen
    # An upkeep task can be counted after the scrape.
    requests = [call for call in sink.counters if call.name == "http_requests_total"]
    assert list(requests[-1].attributes) == [
        "http.route",
        "http.request.method",
        "http.status_code",
        "http.response.status.class",
    ]
