"""Sends requests as they are written, and reads the responses."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.privacy.asking import Ask

_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)
_CHUNKED = b"\r\ntransfer-encoding: chunked\r\n"
_STRAY_SECONDS = 0.3
"""How long to wait for the response to an invalid request."""


class Answer(NamedTuple):
    """A status, 0 without a response, the unparsed head, and the body."""

    status: int
    head: bytes
    body: bytes


class Asked(NamedTuple):
    """A request and its response."""

    ask: Ask
    answer: Answer


async def ask_all(url: str, asks: Iterable[Ask], connections: int = 8) -> list[Asked]:
    """Send *asks* to *url* over some connections, and return the responses."""
    asked: list[Asked] = []
    waiting = iter(asks)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(_converse(url, waiting, asked))
    return asked


async def ask_one(url: str, ask: Ask) -> Answer:
    """Send *ask* to *url*."""
    (asked,) = await ask_all(url, [ask], 1)
    return asked.answer


async def _converse(url: str, waiting: Iterator[Ask], asked: list[Asked]) -> None:
    """Send *waiting* requests over one connection after the other; most outlive many."""
    address = urlsplit(url)
    writer: asyncio.StreamWriter | None = None
    for ask in waiting:
        if writer is None:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
        answer = Answer(0, b"", b"")
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(ask.encode())
            answer = await (_overhear(reader) if ask.raw is not None else _read(reader, ask.method))
        asked.append(Asked(ask, answer))
        if ask.raw is not None or not answer.status or b"connection: close" in answer.head:
            await _close(writer)
            writer = None
    if writer is not None:
        await _close(writer)


async def _read(reader: asyncio.StreamReader, method: str) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if method == "HEAD":
        body = b""
    elif _CHUNKED in head.lower():
        body = await _read_chunks(reader)
    else:
        body = await (reader.readexactly(int(length[1])) if length else reader.read())
    return Answer(int(head.split(b" ")[1]), head, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return bytes(body)


async def _overhear(reader: asyncio.StreamReader) -> Answer:
    received = bytearray()
    with suppress(TimeoutError):
        async with asyncio.timeout(_STRAY_SECONDS):
            while chunk := await reader.read(2**16):
                received += chunk
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    return Answer(int(head.split(b" ")[1]) if head else 0, head, body)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
