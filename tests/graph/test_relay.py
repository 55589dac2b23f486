import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.graph.test_client import (
    IMPATIENT,
    TOKEN,
    Recorded,
    Respond,
    answering,
    closing,
    hanging,
    resetting,
    serving,
    started,
    trickling,
)
from tests.graph.test_transfers import Given, _zeros, a_body, a_failing_body
from wats.errors import GraphCause, GraphOutcomeUnknown, GraphRefused, GraphUnreachable, Overloaded
from wats.graph.client import GraphClient
from wats.graph.transfers import Download, UploadBody
from wats.telemetry.contract.values import EndpointFamily, ErrorCategory, Outcome

FLOWS = EndpointFamily.FLOWS
REFUSAL = b'{"error":{"code":131047,"type":"OAuthException","message":"m"}}'


async def relay(
    client: GraphClient, method: str = "POST", body: UploadBody | None = None
) -> Download:
    return await client.relay(FLOWS, method, ["1", "assets"], body=body, own_root="http://w/g/")


async def read(opened: Download) -> bytes:
    try:
        return b"".join([each async for each in opened.chunks()])
    finally:
        opened.close()


async def test_a_relayed_request_has_its_body_query_and_headers() -> None:
    recorded = Recorded()
    async with serving(answering()) as server, started(server.url, recorded) as client:
        opened = await client.relay(
            FLOWS,
            "POST",
            ["1", "assets"],
            query=[("a", "1"), ("a", "2"), ("b", "x y")],
            body=a_body(b"one ", b"two"),
            headers={"file_offset": "3"},
        )
        body = await read(opened)

    [request] = server.requests
    assert body == b'{"messages":[{"id":"wamid.X"}]}'
    assert request.line == "POST /v25.0/1/assets?a=1&a=2&b=x+y HTTP/1.1"
    assert request.body == b"one two"
    assert {"content-length", "content-type", "file_offset", "authorization"} <= set(
        request.headers
    )
    assert request.headers["accept-encoding"] == "identity"
    assert "transfer-encoding" not in request.headers
    assert recorded.operations == [(FLOWS, 200, Outcome.SUCCESS)]


async def test_the_token_and_the_address_of_graph_are_not_in_the_response() -> None:
    url = "https:\\/\\/graph.facebook.com\\/v25.0\\/1"
    link = f'{{"next":"{url}?access_token={TOKEN}&after=A"}}'.encode()
    async with serving(answering(200, link)) as server, started(server.url) as client:
        body = await read(await relay(client, "GET"))

    assert body == b'{"next":"http:\\/\\/w\\/g\\/1?access_token=&after=A"}'


@pytest.mark.parametrize("respond", [closing, resetting, hanging])
async def test_only_a_write_without_a_response_has_an_unknown_outcome(respond: Respond) -> None:
    for method, body, expected in (
        ("GET", None, GraphUnreachable),
        ("POST", None, GraphOutcomeUnknown),
        ("POST", a_body(b"x"), GraphOutcomeUnknown),
    ):
        async with serving(respond) as server, started(server.url, **IMPATIENT) as client:
            with pytest.raises(expected):
                await relay(client, method, body)


async def test_a_head_that_never_ends_is_limited_by_the_time_of_a_call() -> None:
    for body in (None, a_body(b"x")):
        async with serving(trickling) as server, started(server.url, **IMPATIENT) as client:
            with pytest.raises(GraphOutcomeUnknown) as failed:
                await relay(client, "POST", body)

        assert failed.value.cause is GraphCause.TIMEOUT


async def test_a_body_that_graph_did_not_get_completely_was_not_carried_out() -> None:
    endless = UploadBody("x/y", 1 << 40, _zeros())
    async with serving(resetting, reads=False) as server, started(server.url) as client:
        with pytest.raises(GraphUnreachable):
            await relay(client, "POST", endless)
    async with started("http://127.0.0.1:9") as client:
        with pytest.raises(GraphUnreachable):
            await relay(client, "POST")


async def test_a_refusal_is_counted_once_by_its_category() -> None:
    recorded = Recorded()
    for status, body, expected in (
        (400, REFUSAL, GraphRefused),
        (500, REFUSAL, GraphRefused),
        (502, b"<html>", GraphOutcomeUnknown),
    ):
        async with (
            serving(answering(status, body)) as server,
            started(server.url, recorded) as client,
        ):
            with pytest.raises(expected):
                await relay(client, "POST", a_body(b"x"))

    assert [status for _, status, _ in recorded.operations] == [400, 500, 502]
    assert recorded.errors == [ErrorCategory.SEND_MESSAGE] * 2


async def test_an_early_response_ends_the_request_and_is_believed_if_it_refuses() -> None:
    for status, body, expected in (
        (413, b'{"error":{"code":131053}}', GraphRefused),
        (200, b"{}", GraphOutcomeUnknown),
    ):
        endless = UploadBody("x/y", 1 << 40, _zeros())
        async with (
            serving(answering(status, body), reads=False) as server,
            started(server.url) as client,
        ):
            with pytest.raises(expected):
                await relay(client, "POST", endless)


async def test_the_failure_of_a_source_is_its_own() -> None:
    recorded = Recorded()
    async with (
        serving(answering()) as server,
        started(server.url, recorded, max_connections=4) as client,
    ):
        for _ in range(3):
            with pytest.raises(Given):
                await relay(client, "POST", a_failing_body())
        await read(await relay(client, "POST"))

    assert recorded.operations == [(FLOWS, 200, Outcome.SUCCESS)]


async def test_relayed_calls_are_limited_and_give_their_slot_back() -> None:
    async with serving(answering()) as server, started(server.url, max_connections=4) as client:
        opened = await relay(client)
        with pytest.raises(Overloaded):
            await relay(client)
        opened.close()
        assert await read(await relay(client))


async def test_a_response_that_is_cut_off_fails_while_it_is_read() -> None:
    recorded = Recorded()
    async with serving(answering(length=1000)) as server, started(server.url, recorded) as client:
        opened = await relay(client, "GET")
        with pytest.raises(GraphUnreachable):
            await read(opened)

    assert recorded.operations == [(FLOWS, 0, Outcome.ERROR)]


async def test_a_redirect_is_not_followed() -> None:
    redirect = answering(302, b"", headers="location: http://127.0.0.1:9/\r\n")
    async with serving(redirect) as server, started(server.url) as client:
        with pytest.raises(GraphRefused) as refused:
            await relay(client, "GET")

    assert refused.value.upstream_status == 302
    assert len(server.requests) == 1


async def test_a_cancelled_call_gives_its_slot_back() -> None:
    async with serving(hanging) as server, started(server.url, max_connections=4) as client:
        for number in range(1, 6):
            call = asyncio.create_task(relay(client))
            while len(server.requests) < number:
                assert not call.done()
                await asyncio.sleep(0.005)
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call


async def _none() -> AsyncIterator[bytes]:
    return
    yield b""


async def test_a_body_of_no_bytes_is_written() -> None:
    async with serving(answering()) as server, started(server.url) as client:
        await read(await relay(client, "POST", UploadBody("x/y", 0, _none())))

    assert server.requests[0].headers["content-length"] == "0"
