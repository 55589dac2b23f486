"""The load generator, a process of its own: a job on stdin, a sample on stdout."""

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import cast

import msgspec
import uvloop
from typing_extensions import override

from bench.payloads import Sends, Sent, Statuses, Webhooks

PATIENCE_SECONDS = 30.0
_LENGTH = b"content-length: "


class Kind(StrEnum):
    """The requests of a job."""

    WEBHOOK = "webhook"
    STATUS = "status"
    SEND = "send"
    KEYED_SEND = "keyed_send"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a run.

    Attributes:
        secret: The credential for the server: the app secret for webhooks, a bearer token for
            sends.
        expected: The text that every response must hold, in addition to its status of 200.
        sent: The messages of the statuses.
    """

    port: int
    path: str
    kind: Kind
    secret: str
    expected: str
    seconds: float
    connections: int
    sent: Sent | None = None


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a run.

    Attributes:
        began: The time of the first request, on the machine's monotonic clock.
        ended: The time of the last response.
        busy: The share of that time for which this process had the processor.
    """

    answers: int
    began: float
    ended: float
    p50_ms: float
    p99_ms: float
    busy: float


class LoadFailed(Exception):
    """A response of a server was wrong or missing, so there is nothing to measure."""


class Load:
    """State that the connections share."""

    def __init__(self, job: Job, make: Callable[[], bytes]) -> None:
        self.make = make
        self.expected = job.expected.encode()
        self.latencies: list[float] = []
        self.deadline = 0.0
        self.busy_connections = job.connections
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, reason: str) -> None:
        if not self.finished.done():
            self.finished.set_exception(LoadFailed(reason))

    def leave(self) -> None:
        self.busy_connections -= 1
        if not self.busy_connections and not self.finished.done():
            self.finished.set_result(None)


class Connection(asyncio.Protocol):
    """One connection with one request in flight."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._rest = b""
        self._sent_at = 0.0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self._write = cast(asyncio.WriteTransport, transport).write

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._load.fail("The server hung up.")

    def ask(self) -> None:
        try:
            request = self._load.make()
        except StopIteration:
            self._load.fail("There were not enough messages for the statuses.")
            return
        self._sent_at = time.monotonic()
        self._write(request)

    @override
    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        load = self._load
        if self._rest:
            data = self._rest + data
        head = data.find(b"\r\n\r\n")
        if head < 0:
            self._rest = data
            return
        start = data.find(_LENGTH, 0, head) + len(_LENGTH)
        if len(data) < head + 4 + int(data[start : data.index(b"\r", start)]):
            self._rest = data
            return
        if not data.startswith(b"HTTP/1.1 200") or load.expected not in data:
            load.fail(f"The server answered {data[:200]!r}.")
            return
        self._rest = b""
        load.latencies.append(now - self._sent_at)
        if now < load.deadline:
            self.ask()
        else:
            load.leave()


async def run(job: Job) -> Sample:
    """Do *job*.

    Raises:
        LoadFailed: A response of the server was wrong or missing.
    """
    load = Load(job, _maker(job))
    loop = asyncio.get_running_loop()
    connections = []
    for _ in range(job.connections):
        _, connection = await loop.create_connection(
            lambda: Connection(load), "127.0.0.1", job.port
        )
        connections.append(connection)
    gc.collect()
    gc.disable()
    began, used = time.monotonic(), time.process_time()
    load.deadline = began + job.seconds
    for connection in connections:
        connection.ask()
    try:
        async with asyncio.timeout(job.seconds + PATIENCE_SECONDS):
            await load.finished
    except TimeoutError:
        raise LoadFailed("The server did not answer in time.") from None
    ended, used = time.monotonic(), time.process_time() - used
    latencies = sorted(load.latencies)
    return Sample(
        answers=len(latencies),
        began=began,
        ended=ended,
        p50_ms=latencies[len(latencies) // 2] * 1e3,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1e3,
        busy=used / (ended - began),
    )


def _maker(job: Job) -> Callable[[], bytes]:
    if job.kind is Kind.WEBHOOK:
        return Webhooks(path=job.path, app_secret=job.secret).make
    if job.sent is not None:
        return Statuses(path=job.path, app_secret=job.secret, sent=job.sent).make
    return Sends(path=job.path, token=job.secret, keyed=job.kind is Kind.KEYED_SEND).make


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        sample = uvloop.run(run(job))
    except LoadFailed as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(msgspec.json.encode(sample))


if __name__ == "__main__":
    main()
