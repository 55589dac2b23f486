"""Subscribers, by the path of their URL: a good one, one that fails at first, and one that sleeps.

`python -m bench.receivers FAIL SLEEP NICE` fails for FAIL seconds after the first request, sleeps
for SLEEP seconds before each response, and has the niceness NICE, so that it can share a core with
another one without delaying it. `GET /requests` returns all requests so far.
"""

import asyncio
import os
import sys
import time

import msgspec
import uvloop
from aiohttp import web

from bench.announce import listen

PATHS = ("good", "failing", "sleeping")


class Item(msgspec.Struct):
    """The members of a message that identify it."""

    id: str
    sender: str = msgspec.field(name="from")


class Body(msgspec.Struct):
    """The body of a request."""

    raw: Item


class ReceivedRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request: its path, its message, and its time on the clock `monotonic` of the machine."""

    path: str
    customer: str
    message: str
    moment: float
    is_accepted: bool


class Receivers:
    """Notes each request, and responds as its path says."""

    def __init__(self, fail_seconds: float, sleep_seconds: float) -> None:
        self._fail_seconds = fail_seconds
        self._sleep_seconds = sleep_seconds
        self._decoder = msgspec.json.Decoder(Body)
        self._requests: list[ReceivedRequest] = []
        self._fails_until: float | None = None

    async def receive(self, request: web.Request) -> web.Response:
        """Note an update."""
        item = self._decoder.decode(await request.read()).raw
        path, moment = request.path[1:], time.monotonic()
        is_accepted = path != "failing" or self._accepts(moment)
        received = ReceivedRequest(path, item.sender, item.id, moment, is_accepted)
        self._requests.append(received)
        if path == "sleeping":
            await asyncio.sleep(self._sleep_seconds)
        return web.Response(status=200 if is_accepted else 500)

    def _accepts(self, moment: float) -> bool:
        """Return whether the outage of the failing subscriber is over at *moment*."""
        if self._fails_until is None:
            self._fails_until = moment + self._fail_seconds
        return moment >= self._fails_until

    async def show(self, _: web.Request) -> web.Response:
        """Return the requests."""
        return web.Response(body=msgspec.json.encode(self._requests))


async def main() -> None:
    fail_seconds, sleep_seconds, niceness = sys.argv[1:]
    os.nice(int(niceness))
    receivers = Receivers(float(fail_seconds), float(sleep_seconds))
    application = web.Application()
    application.router.add_get("/requests", receivers.show)
    for path in PATHS:
        application.router.add_post(f"/{path}", receivers.receive)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listen()).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
