"""Measure whether response times of the 404 distinguish a hidden path from an unknown one.

One connection requests two paths of the same length in turns, in random order within each pair, and
Welch's t decides whether the mean times differ. Two controls show the validity of the figures: two
paths that do not exist, which must not differ, and a path that takes a little longer to read, which
must. A process of its own: it reads a job from stdin and prints the result to stdout.
"""

import gc
import math
import random
import socket
import sys
from collections.abc import Iterator, Sequence
from statistics import fmean, median
from time import perf_counter_ns

import msgspec

from bench.contestants import Stage
from bench.processes import run

THRESHOLD = 4.5
"""From this |t| on two paths count as distinguished. By chance it occurs once in 150,000 times."""

KEPT_SHARE = 0.95
WARM_UP_SHARE = 0.02
PATIENCE_SECONDS = 30.0
SLOWEST_PAIR_SECONDS = 0.01
LONG_TOKEN = 8192
_HIDDEN = ("/metrics", "/status", "/debug/diagnostics")


class Job(msgspec.Struct, frozen=True):
    """The port to measure, and the number of pairs of requests for each two paths."""

    port: int
    pairs: int


class Contest(msgspec.Struct, frozen=True, kw_only=True):
    """Two paths, and the form of their requests.

    Attributes:
        differs: Whether the second is known to take longer.
    """

    name: str
    paths: tuple[str, str]
    headers: str = ""
    differs: bool = False


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one contest.

    Attributes:
        median_us: The duration for the first path, measured by the client.
        difference_ns: The mean additional duration for the second path, without the longest times.
        t: Welch's t of all times.
        t_kept: The same without the longest twentieth of all times: those depend on the machine,
            and hide small differences.
    """

    name: str
    differs: bool
    median_us: float
    difference_ns: float
    t: float
    t_kept: float

    @property
    def distinguished(self) -> bool:
        """Whether a client could distinguish the two paths."""
        return max(abs(self.t), abs(self.t_kept)) >= THRESHOLD


class Hiding(msgspec.Struct, frozen=True):
    """All verdicts, and the number of pairs behind each."""

    pairs: int
    verdicts: list[Verdict]


def measure_hiding(stage: Stage, pairs: int) -> Hiding:
    """Compare hidden and unknown paths of a `wats serve` on the core of the servers.

    Raises:
        ChildFailed: A response was missing, or not a 404.
    """
    server = stage.start_wats("hiding", families="operator")
    timeout_seconds = PATIENCE_SECONDS + len(list(contests())) * pairs * SLOWEST_PAIR_SECONDS
    given = msgspec.json.encode(Job(server.port, pairs))
    output = run("bench.hiding", given, core=stage.cores.load, timeout_seconds=timeout_seconds)
    return msgspec.json.decode(output, type=Hiding)


def contests() -> Iterator[Contest]:
    """Return the comparisons, the controls last."""
    long_token = f"authorization: Bearer {'x' * LONG_TOKEN}\r\n"
    for kind, headers in (("no token", ""), ("8 KB token", long_token)):
        for path in _HIDDEN:
            yield Contest(name=f"{path}, {kind}", paths=(f"{path[:-1]}_", path), headers=headers)
    yield Contest(name="two unknown paths", paths=("/metric_", "/metric-"))
    yield Contest(name="dots in one path", paths=("/a/b/metric_", "/a/../metric"), differs=True)


class Client:
    """One connection on which requests are sent and timed one after the other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def compare(self, contest: Contest, pairs: int) -> Verdict:
        """Request both paths of *contest* *pairs* times."""
        requests = [
            f"GET {path} HTTP/1.1\r\nhost: x\r\n{contest.headers}\r\n".encode()
            for path in contest.paths
        ]
        length = self._length_of_answer(requests)
        self._time_pairs(requests, length, math.ceil(pairs * WARM_UP_SHARE))
        times = self._time_pairs(requests, length, pairs)
        return judge(contest, *times)

    def _length_of_answer(self, requests: Sequence[bytes]) -> int:
        answers = []
        for request in requests:
            self._socket.sendall(request)
            answer = b""
            while not answer.endswith(b'"Route not found."}}'):
                received = self._socket.recv(4096)
                if not received or not (answer + received).startswith(b"HTTP/1.1 404 "):
                    sys.exit("The server did not answer with the 404.")
                answer += received
            answers.append(answer)
        if len(set(map(len, answers))) > 1:
            sys.exit("The answers are not of the same length.")
        return len(answers[0])

    def _time_pairs(
        self, requests: Sequence[bytes], length: int, pairs: int
    ) -> tuple[list[int], list[int]]:
        """Return how many nanoseconds each of *requests* took, *pairs* times."""
        times: tuple[list[int], list[int]] = ([], [])
        for _ in range(pairs):
            first = random.getrandbits(1)
            for which in (first, 1 - first):
                times[which].append(self._time(requests[which], length))
        return times

    def _time(self, request: bytes, length: int) -> int:
        receive, missing = self._socket.recv, length
        began = perf_counter_ns()
        self._socket.sendall(request)
        while missing > 0:
            received = len(receive(4096))
            if not received:
                sys.exit("The server hung up.")
            missing -= received
        return perf_counter_ns() - began


def judge(contest: Contest, first: Sequence[int], second: Sequence[int]) -> Verdict:
    """Return whether the times of the two paths of *contest* differ."""
    longest_kept = sorted([*first, *second])[int(KEPT_SHARE * 2 * len(first)) - 1]
    kept = [[each for each in times if each <= longest_kept] for times in (first, second)]
    return Verdict(
        name=contest.name,
        differs=contest.differs,
        median_us=median(first) / 1e3,
        difference_ns=fmean(kept[1]) - fmean(kept[0]),
        t=welch_t(first, second),
        t_kept=welch_t(*kept),
    )


def welch_t(first: Sequence[float], second: Sequence[float]) -> float:
    """Return by how many standard errors the mean of *second* is above that of *first*."""
    error = math.sqrt(_squared_error(first) + _squared_error(second))
    return (fmean(second) - fmean(first)) / error if error else 0.0


def _squared_error(times: Sequence[float]) -> float:
    """Return the square of the standard error of the mean of *times*."""
    mean = fmean(times)
    return math.fsum((each - mean) ** 2 for each in times) / (len(times) - 1) / len(times)


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    gc.disable()
    client = Client(job.port)
    verdicts = [client.compare(contest, job.pairs) for contest in contests()]
    sys.stdout.buffer.write(msgspec.json.encode(Hiding(job.pairs, verdicts)))


if __name__ == "__main__":
    main()
