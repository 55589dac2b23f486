import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from standardwebhooks import Webhook
from yarl import URL

from tests.subscribers.conftest import SECRET, Clock, Endpoint, Subscribe, failure_of
from wats.clock import utc_now
from wats.inbound.failures import status_of
from wats.inbound.handlers import RetryLater
from wats.inbound.updates import Update
from wats.subscribers.circuit import THRESHOLD
from wats.subscribers.subscriber import (
    MAX_RESPONSE_BYTES,
    SubscriberFailed,
    SubscriberRedirected,
    SubscriberRefused,
    SubscriberTLSFailed,
    SubscriberUnreachable,
)


async def test_an_update_is_posted_with_a_valid_signature(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    update = next(updates)
    async with subscribe(endpoint.url) as subscriber:
        await subscriber(update)

    ((headers, body),) = endpoint.requests
    assert Webhook(SECRET).verify(body, headers)["key"] == update.key


async def test_several_updates_are_one_request_that_succeeds_or_fails(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    several = [next(updates) for _ in range(3)]
    async with subscribe(endpoint.url, format="meta", batch=3) as subscriber:
        await subscriber.post(several)
        endpoint.respond(400)
        with pytest.raises(SubscriberRefused):
            await subscriber.post(several)

    first, second = endpoint.documents
    assert len(first["entry"]) == 3
    assert first == second


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (200, None),
        (204, None),
        (301, SubscriberRedirected),
        (307, SubscriberRedirected),
        (400, SubscriberRefused),
        (404, SubscriberRefused),
        (500, SubscriberFailed),
        (502, SubscriberUnreachable),
        (503, SubscriberUnreachable),
        (504, SubscriberUnreachable),
    ],
)
async def test_only_a_status_of_2xx_settles_an_update(
    endpoint: Endpoint,
    subscribe: Subscribe,
    updates: Iterator[Update],
    status: int,
    failure: type[Exception] | None,
) -> None:
    endpoint.respond(status)
    async with subscribe(endpoint.url) as subscriber:
        found = await failure_of(subscriber, next(updates))

    assert type(found) is (failure or type(None))
    assert found is None or status_of(found) == status


async def test_a_redirect_is_not_followed(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    endpoint.respond(307, location=endpoint.url + "/elsewhere")
    async with subscribe(endpoint.url) as subscriber:
        await failure_of(subscriber, next(updates))

    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {}, 5),
        (429, {"Retry-After": "120"}, 120),
        (503, {"Retry-After": "120"}, 120),
        (429, {"Retry-After": "999999999"}, 3600),
        (429, {"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, 5),
        (429, {"Retry-After": "Mon, 01 Jan 2027 00:00:00 +99999999999999"}, 5),
        (429, {"Retry-After": "soon"}, 5),
        (410, {}, 5),
    ],
)
async def test_a_pause_that_the_subscriber_asks_for_holds_all_updates(
    endpoint: Endpoint,
    subscribe: Subscribe,
    updates: Iterator[Update],
    clock: Clock,
    status: int,
    headers: dict[str, str],
    seconds: int,
) -> None:
    endpoint.respond(status, **headers)
    async with subscribe(endpoint.url) as subscriber:
        first = await failure_of(subscriber, next(updates))
        second = await failure_of(subscriber, next(updates))
        clock.seconds += seconds
        endpoint.respond(200)
        third = await failure_of(subscriber, next(updates))

    assert isinstance(first, RetryLater)
    assert isinstance(second, RetryLater)
    assert [first.seconds, second.seconds, third] == [seconds, seconds, None]
    assert len(endpoint.requests) == 2


async def test_a_request_that_ends_after_the_subscriber_asked_for_a_pause_does_not_end_it(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    is_throttled = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        if len(endpoint.requests) > 1:
            is_throttled.set()
            return web.Response(status=429, headers={"Retry-After": "60"})
        await is_throttled.wait()
        await asyncio.sleep(0.1)
        return web.Response()

    endpoint.answer = answer
    async with subscribe(endpoint.url) as subscriber:
        calls = [failure_of(subscriber, next(updates)) for _ in range(2)]
        results = await asyncio.gather(*calls)
        later = await failure_of(subscriber, next(updates))

    assert {type(each) for each in results} == {type(None), RetryLater}
    assert isinstance(later, RetryLater)
    assert len(endpoint.requests) == 2


async def test_a_pause_can_be_given_as_a_date(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    moment = utc_now() + timedelta(minutes=10)
    endpoint.respond(429, **{"Retry-After": format_datetime(moment, usegmt=True)})
    async with subscribe(endpoint.url) as subscriber:
        failure = await failure_of(subscriber, next(updates))

    assert isinstance(failure, RetryLater)
    assert 500 < failure.seconds <= 600


async def test_an_outage_is_logged_once_by_name_and_ends_with_the_first_success(
    endpoint: Endpoint,
    subscribe: Subscribe,
    updates: Iterator[Update],
    clock: Clock,
    logged: list[dict[str, Any]],
    circuits: list[int],
) -> None:
    endpoint.respond(500)
    async with subscribe(endpoint.url) as subscriber:
        failures = [await failure_of(subscriber, next(updates)) for _ in range(THRESHOLD + 3)]
        endpoint.respond(200)
        clock.seconds += 60
        assert await failure_of(subscriber, next(updates)) is None

    kinds = [type(each) for each in failures]
    assert kinds == [SubscriberFailed] * (THRESHOLD - 1) + [RetryLater] * 4
    assert len(endpoint.requests) == THRESHOLD + 1
    assert circuits == [0, 1, 0]
    name = {"subscriber": "crm", "suppressed": 0}
    assert logged == [
        {
            "event": "wats.subscriber.unreachable",
            "errorName": "SubscriberFailed",
            "status": 500,
            **name,
        },
        {"event": "wats.subscriber.recovered", **name},
    ]


async def test_each_process_reports_a_success_after_another_opened_its_circuit(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update], circuits: list[int]
) -> None:
    async with subscribe(endpoint.url) as idle, subscribe(endpoint.url) as busy:
        endpoint.respond(500)
        for _ in range(THRESHOLD):
            await failure_of(idle, next(updates))
        assert circuits[-1] == 1
        await failure_of(busy, next(updates))
        assert circuits[-1] == 1

        endpoint.respond(200)
        await failure_of(busy, next(updates))

    assert circuits[-1] == 0


async def test_a_failed_probe_reports_an_open_circuit_again(
    endpoint: Endpoint,
    subscribe: Subscribe,
    updates: Iterator[Update],
    clock: Clock,
    circuits: list[int],
) -> None:
    endpoint.respond(500)
    async with subscribe(endpoint.url) as open_:
        for _ in range(THRESHOLD):
            await failure_of(open_, next(updates))
        async with subscribe(endpoint.url):  # a worker that replaces another one
            assert circuits[-1] == 0
            clock.seconds += 60

            await failure_of(open_, next(updates))

    assert circuits[-1] == 1


async def test_an_update_that_is_always_refused_holds_no_other(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    bad = next(updates)
    endpoint.respond(500)
    async with subscribe(endpoint.url) as subscriber:
        failures = [await failure_of(subscriber, bad) for _ in range(2 * THRESHOLD)]
        endpoint.respond(200)
        assert await failure_of(subscriber, next(updates)) is None

    assert {type(each) for each in failures} == {SubscriberFailed}


async def test_a_request_ends_at_its_time_limit(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    endpoint.answer = hang
    async with subscribe(endpoint.url, timeout_seconds=0.2) as subscriber:
        assert isinstance(await failure_of(subscriber, next(updates)), SubscriberUnreachable)


async def test_a_cancelled_request_leaves_the_circuit_as_it_was(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update], clock: Clock
) -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    endpoint.respond(410)
    async with subscribe(endpoint.url) as subscriber:
        await failure_of(subscriber, next(updates))
        clock.seconds += 3600
        endpoint.answer = hang
        probe = asyncio.create_task(failure_of(subscriber, next(updates)))
        while len(endpoint.requests) < 2:
            await asyncio.sleep(0.01)
        probe.cancel()
        await asyncio.wait([probe])
        endpoint.respond(200)

        assert await failure_of(subscriber, next(updates)) is None


async def test_a_long_response_is_cut_off_and_its_status_counts(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    cut_off = asyncio.Event()

    async def pour(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * MAX_RESPONSE_BYTES)
        except ConnectionError:
            cut_off.set()
        return response

    endpoint.answer = pour
    async with subscribe(endpoint.url) as subscriber:
        await subscriber(next(updates))
        async with asyncio.timeout(60):
            await cut_off.wait()


async def test_a_response_without_an_end_counts_after_a_moment(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    async def begin(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(3600)
        return response

    endpoint.answer = begin
    async with subscribe(endpoint.url, timeout_seconds=3600.0) as subscriber, asyncio.timeout(60):
        await subscriber(next(updates))


@pytest.mark.parametrize(
    "beginning", [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", b"HTTP/1.1 200 "]
)
async def test_endless_bytes_that_are_no_body_end_the_connection(
    subscribe: Subscribe, updates: Iterator[Update], beginning: bytes
) -> None:
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"}")
        writer.write(beginning)
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"a" * 4096)
                await writer.drain()
                sent += 4096
        writer.close()

    async with await asyncio.start_server(pour, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with subscribe(url, timeout_seconds=60.0) as subscriber, asyncio.timeout(10):
            await failure_of(subscriber, next(updates))

    assert sent < 16 * 1024 * 1024  # with the buffers of both sockets


async def test_a_failed_tls_handshake_has_a_class_of_its_own(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    async with subscribe(endpoint.url.replace("http:", "https:")) as subscriber:
        failure = await failure_of(subscriber, next(updates))

    assert type(failure) is SubscriberTLSFailed
    assert issubclass(aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError)


async def test_a_port_without_a_listener_is_unreachable(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    async with subscribe("http://127.0.0.1:9/") as subscriber:
        assert isinstance(await failure_of(subscriber, next(updates)), SubscriberUnreachable)


async def test_the_path_and_query_of_the_url_are_sent_unchanged(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    paths = []

    async def answer(request: web.Request) -> web.StreamResponse:
        paths.append(request.raw_path)
        return web.Response()

    endpoint.answer = answer
    async with subscribe(endpoint.url + "/a%2Fb/?token=x%26y") as subscriber:
        await subscriber(next(updates))

    assert paths == ["/hook/a%2Fb/?token=x%26y"]


async def test_a_host_without_a_name_server_delays_no_other_subscriber(
    endpoint: Endpoint,
    subscribe: Subscribe,
    updates: Iterator[Update],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    looked_up, is_answered = [], threading.Event()
    port = URL(endpoint.url).port

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        looked_up.append(host)
        assert host == "responds.example" or is_answered.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    first, second = f"http://hangs.example:{port}/", f"http://responds.example:{port}/"
    async with subscribe(first) as hanging, subscribe(second) as responding:
        waiting = asyncio.create_task(failure_of(hanging, next(updates)))
        try:
            while not looked_up:
                await asyncio.sleep(0.001)
            await responding(next(updates))
            assert not waiting.done()
        finally:
            is_answered.set()
        assert await waiting is None

    assert len(endpoint.requests) == 2


async def test_the_body_is_the_same_for_every_attempt(
    endpoint: Endpoint, subscribe: Subscribe, updates: Iterator[Update]
) -> None:
    update = next(updates)
    async with subscribe(endpoint.url) as subscriber:
        await subscriber(update)
        await subscriber(update)

    first, second = (json.dumps(each) for each in endpoint.documents)
    assert first == second


async def test_a_subscriber_that_is_down_for_too_long_is_paused(
    endpoint: Endpoint,
    subscribe: Subscribe,
    updates: Iterator[Update],
    clock: Clock,
    logged: list[dict[str, Any]],
) -> None:
    pauses = []

    async def pause() -> None:
        pauses.append(clock.seconds)

    endpoint.respond(502)
    async with subscribe(endpoint.url, pause=pause, disable_after_hours=2.0) as subscriber:
        for _ in range(THRESHOLD):
            await failure_of(subscriber, next(updates))
        began = clock.seconds
        while clock.seconds < began + 2 * 3600:
            assert pauses == []
            clock.seconds += 600
            await failure_of(subscriber, next(updates))

    assert pauses == [began + 2 * 3600]
    assert logged[-1]["event"] == "wats.subscriber.paused"
