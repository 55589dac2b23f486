"""A loop of aiohttp's client: as many concurrent requests as there are connections, nothing else.

In a process of its own it calls the fake Graph, with an order on stdin and the result on stdout.
"""

import asyncio
import gc
import os
import sys
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import TypeAlias

import aiohttp
import msgspec
import uvloop

from bench.machine import peak_mib
from bench.payloads import TextPayloads

Post: TypeAlias = tuple[Mapping[str, str], bytes]
"""The headers and the body of a request."""


class PostingOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The URL that takes messages, and the length of the run."""

    url: str
    access_token: str
    seconds: float
    connections: int


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """The responses of a run, and its costs."""

    answers: int
    seconds: float
    cpu_seconds: float
    peak_mib: float | None


async def post_all(url: str, posts: Iterator[Post], connections: int) -> None:
    """Send *posts* to *url*, on each connection one after the other."""
    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def post() -> None:
            for headers, body in posts:
                async with session.post(url, data=body, headers=headers) as answer:
                    await answer.read()
                if answer.status != HTTPStatus.OK:
                    sys.exit("A request was refused.")

        await asyncio.gather(*(post() for _ in range(connections)))


async def _post_for(order: PostingOrder) -> Posted:
    headers = {
        "authorization": f"Bearer {order.access_token}",
        "content-type": "application/json",
    }
    made = TextPayloads()
    answers = 0

    def posts() -> Iterator[Post]:
        nonlocal answers
        while time.perf_counter() < deadline:
            answers += 1
            yield headers, made.make()

    gc.collect()
    gc.freeze()
    began, used = time.perf_counter(), time.process_time()
    deadline = began + order.seconds
    await post_all(order.url, posts(), order.connections)
    return Posted(
        answers=answers,
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - used,
        peak_mib=peak_mib(os.getpid()),
    )


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=PostingOrder)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(_post_for(order))))


if __name__ == "__main__":
    main()
