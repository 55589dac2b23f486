import asyncio
from collections.abc import Iterable

import pytest

from wats.errors import LengthRequired, PayloadTooLarge, UploadTimeout
from wats.web.access import NO_ACCESS
from wats.web.exchange import HELD_EXTENSION, ClientGone, Message, Request


def request(
    *messages: Message, headers: Iterable[tuple[bytes, bytes]] = (), query: bytes = b""
) -> Request:
    waiting = list(messages)

    async def receive() -> Message:
        return waiting.pop(0)

    return Request({"headers": list(headers), "query_string": query}, receive, {}, access=NO_ACCESS)


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_is_the_sum_of_its_chunks() -> None:
    asked = request(part(b"one ", more=True), part(b"two ", more=True), part(b"three"))

    assert await asked.body(13) == b"one two three"


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([part(b"12345")], id="in-one-chunk"),
        pytest.param([part(b"123", more=True), part(b"45", more=True)], id="in-several"),
    ],
)
async def test_reading_ends_as_soon_as_the_cap_is_passed(messages: list[Message]) -> None:
    with pytest.raises(PayloadTooLarge, match="larger than 4 bytes"):
        await request(*messages).body(4)


async def test_a_body_that_is_declared_too_large_is_not_read() -> None:
    with pytest.raises(PayloadTooLarge, match="larger than 4 bytes"):
        await request(headers=[(b"content-length", b"5")]).body(4)


async def test_a_length_of_absurd_size_is_too_large() -> None:
    with pytest.raises(PayloadTooLarge):
        await request(headers=[(b"content-length", b"9" * 5000)]).body(4)


@pytest.mark.parametrize("length", [b"-1", b"4 4", b"x", b"\xb2"])
async def test_an_invalid_length_is_ignored_and_the_cap_applies(length: bytes) -> None:
    asked = request(part(b"1234"), headers=[(b"content-length", length)])

    assert await asked.body(4) == b"1234"


async def test_a_client_that_hangs_up_raises_client_gone() -> None:
    with pytest.raises(ClientGone):
        await request(part(b"1", more=True), {"type": "http.disconnect"}).body(4)


def test_of_a_repeated_query_parameter_the_first_counts() -> None:
    assert request(query=b"a=1&a=2&b=").query == {"a": "1", "b": ""}


def test_a_repeated_header_is_joined_by_commas() -> None:
    assert request(headers=[(b"x", b"1"), (b"y", b"0"), (b"x", b"2")]).header(b"x") == "1, 2"
    assert request().header(b"x") is None


@pytest.mark.parametrize("value", [b" a", b"a ", b"\t a \t"])
def test_white_space_around_a_value_is_ignored(value: bytes) -> None:
    assert request(headers=[(b"x", value)]).header(b"x") == "a"


async def test_the_pieces_of_a_body_are_kept_by_the_server_if_it_can() -> None:
    pieces: list[bytes] = []
    asked = request(part(b"one", more=True), part(b"four"))
    asked._scope["extensions"] = {HELD_EXTENSION: {"add": pieces.append, "take": lambda: b"all"}}

    assert await asked.body(10) == b"all"
    assert pieces == [b"one", b"four"]


async def test_a_stream_has_the_pieces_of_the_body() -> None:
    asked = request(part(b"one", more=True), part(b"", more=True), part(b"two"))

    assert [each async for each in asked.stream()] == [b"one", b"two"]


async def test_a_stream_that_stops_is_an_error() -> None:
    async def receive() -> Message:
        await asyncio.sleep(60)
        return part(b"")

    asked = Request({"headers": []}, receive, {}, access=NO_ACCESS)
    with pytest.raises(UploadTimeout):
        async for _ in asked.stream(0.05):
            pass


async def test_a_stream_that_trickles_without_end_is_an_error() -> None:
    async def receive() -> dict[str, object]:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"a", "more_body": True}

    asked = Request({"headers": []}, receive, {}, access=NO_ACCESS)

    with pytest.raises(UploadTimeout):
        async for _ in asked.stream(total_seconds=0.05):
            pass


async def test_a_client_that_leaves_ends_a_stream() -> None:
    asked = request(part(b"one", more=True), {"type": "http.disconnect"})

    with pytest.raises(ClientGone):
        async for _ in asked.stream():
            pass


async def test_the_end_of_the_client_is_noticed_behind_its_body() -> None:
    await request(part(b"x", more=True), part(b"y"), {"type": "http.disconnect"}).disconnected()


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"x")]])
async def test_a_length_is_required(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(LengthRequired):
        _ = request(headers=headers).length
