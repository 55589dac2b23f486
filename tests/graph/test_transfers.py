import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graph.test_client import (
    IMPATIENT,
    Recorded,
    answering,
    closing,
    hanging,
    resetting,
    serving,
    started,
)
from wats.errors import (
    GraphCause,
    GraphOutcomeUnknown,
    GraphRefused,
    GraphUnreachable,
    MediaUnusable,
    Overloaded,
)
from wats.graph.transfers import UploadBody, may_have_token
from wats.telemetry.contract.values import EndpointFamily, Outcome

MEDIA = EndpointFamily.MEDIA
ROOT = "https://graph.facebook.com/v25.0/"


def a_body(*pieces: bytes, length: int | None = None) -> UploadBody:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    size = sum(map(len, pieces)) if length is None else length
    return UploadBody("multipart/form-data; boundary=b", size, chunks())


class Given(Exception):
    """The failure of a source."""


def a_failing_body() -> UploadBody:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        raise Given

    return UploadBody("x/y", 100, chunks())


async def test_an_upload_has_a_length_and_its_pieces_in_order() -> None:
    recorded = Recorded()
    async with serving(answering()) as server, started(server.url, recorded) as client:
        answer = await client.upload(MEDIA, ["200", "media"], a_body(b"one ", b"two"))

    [request] = server.requests
    assert answer.status == 200
    assert request.line == "POST /v25.0/200/media HTTP/1.1"
    assert request.headers["content-length"] == "7"
    assert request.headers["content-type"] == "multipart/form-data; boundary=b"
    assert "transfer-encoding" not in request.headers
    assert request.body == b"one two"
    assert recorded.operations == [(MEDIA, 200, Outcome.SUCCESS)]


async def test_the_failure_of_a_source_is_its_own_and_not_counted_as_graphs() -> None:
    recorded = Recorded()
    async with serving(answering()) as server, started(server.url, recorded) as client:
        with pytest.raises(Given):
            await client.upload(MEDIA, ["200", "media"], a_failing_body())
        answer = await client.upload(MEDIA, ["200", "media"], a_body(b"x"))

    assert (answer.status, server.connections) == (200, 2)
    assert recorded.operations == [(MEDIA, 200, Outcome.SUCCESS)]


async def test_a_whole_body_without_a_response_has_an_unknown_outcome() -> None:
    for respond in (closing, resetting):
        async with serving(respond) as server, started(server.url) as client:
            with pytest.raises(GraphOutcomeUnknown):
                await client.upload(MEDIA, ["200", "media"], a_body(b"x"))


async def test_an_upload_without_a_server_can_be_repeated() -> None:
    async with started("http://127.0.0.1:9") as client:
        with pytest.raises(GraphUnreachable) as failed:
            await client.upload(MEDIA, ["200", "media"], a_body(b"x"))

    assert failed.value.cause is GraphCause.REFUSED


async def test_a_slow_source_is_not_a_slow_graph() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(4):
            await asyncio.sleep(0.8)
            yield b"x"

    async with serving(answering()) as server, started(server.url, read_seconds=3) as client:
        answer = await client.upload(MEDIA, ["200", "media"], UploadBody("x/y", 4, chunks()))

    assert answer.status == 200


async def test_a_graph_without_a_response_ends_the_upload() -> None:
    async with serving(hanging) as server, started(server.url, read_seconds=0.3) as client:
        with pytest.raises(GraphOutcomeUnknown) as failed:
            await client.upload(MEDIA, ["200", "media"], a_body(b"x"))

    assert failed.value.cause is GraphCause.TIMEOUT


async def test_an_early_refusal_ends_an_upload_and_its_connection() -> None:
    recorded = Recorded()
    endless = UploadBody("x/y", 1 << 40, _zeros())
    refusing = answering(413, b'{"error":{"code":131053}}')
    async with serving(refusing, reads=False) as server, started(server.url, recorded) as client:
        with pytest.raises(GraphRefused):
            await client.upload(MEDIA, ["200", "media"], endless)

    assert recorded.operations == [(MEDIA, 413, Outcome.ERROR)]


async def _zeros() -> AsyncIterator[bytes]:
    while True:
        yield bytes(65536)
        await asyncio.sleep(0)


async def test_an_early_success_of_an_incomplete_upload_is_not_believed() -> None:
    endless = UploadBody("x/y", 1 << 40, _zeros())
    async with serving(answering(), reads=False) as server, started(server.url) as client:
        with pytest.raises(GraphOutcomeUnknown):
            await client.upload(MEDIA, ["200", "media"], endless)


async def test_transfers_are_limited_to_a_share_of_the_connections() -> None:
    async with (
        serving(hanging) as server,
        started(server.url, max_connections=8, read_seconds=0.5) as client,
    ):
        uploads = [client.upload(MEDIA, ["200", "media"], a_body(b"x")) for _ in range(4)]
        results = await asyncio.gather(*uploads, return_exceptions=True)
        again = await asyncio.gather(
            client.upload(MEDIA, ["200", "media"], a_body(b"x")), return_exceptions=True
        )

    assert [type(each) for each in results] == [GraphOutcomeUnknown] * 2 + [Overloaded] * 2
    assert [type(each) for each in again] == [GraphOutcomeUnknown]


async def test_a_cancelled_upload_gives_its_slot_back() -> None:
    async with serving(hanging) as server, started(server.url, max_connections=4) as client:
        for number in range(1, 4):
            upload = asyncio.create_task(client.upload(MEDIA, ["200", "media"], a_body(b"x")))
            while len(server.requests) < number:
                assert not upload.done()
                await asyncio.sleep(0.005)
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload

    assert server.connections == 3


async def test_a_download_is_counted_once_and_gives_its_connection_back() -> None:
    recorded = Recorded()
    async with (
        serving(answering(body=b"content")) as server,
        started(server.url, recorded) as client,
    ):
        for _ in range(2):
            download = await client.download(MEDIA, f"{server.url}/file?x=%2F")
            content = b"".join([each async for each in download.chunks()])
            download.close()
            download.close()

    assert (content, download.length) == (b"content", 7)
    assert server.connections == 1
    assert server.requests[0].line == "GET /file?x=%2F HTTP/1.1"
    assert server.requests[0].headers["accept-encoding"] == "identity"
    assert recorded.operations == [(MEDIA, 200, Outcome.SUCCESS)] * 2


async def test_a_download_that_never_begins_ends_after_an_interim_response_too() -> None:
    async def respond(writer: asyncio.StreamWriter, number: int) -> bool:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await hanging(writer, number)

    async with serving(respond) as server, started(server.url, **IMPATIENT) as client:
        with pytest.raises(GraphUnreachable) as caught:
            async with asyncio.timeout(60):
                await client.download(MEDIA, f"{server.url}/file")

    assert caught.value.cause is GraphCause.TIMEOUT


async def test_a_download_that_is_cut_off_is_an_error_without_a_status() -> None:
    recorded = Recorded()
    async with (
        serving(answering(body=b"content", length=9)) as server,
        started(server.url, recorded) as client,
    ):
        download = await client.download(MEDIA, f"{server.url}/file")
        with pytest.raises(GraphUnreachable):
            async for _ in download.chunks():
                pass
        download.close()

    assert recorded.operations == [(MEDIA, 0, Outcome.ERROR)]


@pytest.mark.parametrize("rest", [b"no size\r\n", b"f" * 20 + b"\r\n", b"1\r\nlonger"])
async def test_a_download_whose_later_chunks_are_invalid_ends_immediately(rest: bytes) -> None:
    async def respond(writer: asyncio.StreamWriter, number: int) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ncontent\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.write(rest)
        return await hanging(writer, number)

    async with serving(respond) as server, started(server.url, **IMPATIENT) as client:
        download = await client.download(MEDIA, f"{server.url}/file")
        async with asyncio.timeout(30):
            with pytest.raises(GraphUnreachable):
                async for _ in download.chunks():
                    pass
        download.close()


@pytest.mark.parametrize(
    "url",
    [
        *("https://graph.facebook.com/x", "https://lookaside.fbsbx.com/a?b=c"),
        *("https://LOOKASIDE.fbsbx.com/", "https://lookaside.fbsbx.com:443/"),
    ],
)
def test_the_token_may_be_sent_to_graph_and_to_metas_media_hosts(url: str) -> None:
    assert may_have_token(url, ROOT)


@pytest.mark.parametrize(
    "url",
    [
        *("http://graph.facebook.com/x", "https://graph.facebook.com:444/", "https://evil.example"),
        *("https://evil-lookaside.fbsbx.com/", "https://lookaside.fbsbx.com@evil.example/"),
        *("https://lookaside.fbsbx.com\\@evil.example/", "https://lookaside.fbsbx.com.evil/"),
        *("http://lookaside.fbsbx.com/", "https://lookaside.fbsbx.com:99999/", "https://[::1"),
        *("https://lookaside.fbsbx.com/\r\nx", "https://lookaside.fbsbx.com/\u0131", "", "/x"),
    ],
)
def test_the_token_must_not_be_sent_elsewhere(url: str) -> None:
    assert not may_have_token(url, ROOT)


@given(st.text() | st.text().map("https://lookaside.fbsbx.com".__add__))
def test_any_text_is_a_url_of_a_known_host_or_refused(url: str) -> None:
    if may_have_token(url, ROOT):
        assert urlsplit(url).hostname in {"graph.facebook.com", "lookaside.fbsbx.com"}


async def test_a_download_from_another_host_is_not_begun() -> None:
    recorded = Recorded()
    async with serving(answering()) as server, started("http://127.0.0.1:9", recorded) as client:
        with pytest.raises(MediaUnusable):
            await client.download(MEDIA, f"{server.url}/file")

    assert (server.connections, recorded.operations) == (0, [])
