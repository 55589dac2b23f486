"""The contestants, and how each is started."""

import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import msgspec
from typing_extensions import override

from bench.inbox import Inbox, await_settled, postgres_inbox, sqlite_inbox
from bench.load import PATIENCE_SECONDS, Job, Kind, Sample
from bench.machine import Cores
from bench.payloads import PHONE_NUMBER_ID, STATUSES, WABA_ID, Sent
from bench.posting import Posted, PostingOrder
from bench.processes import Server, run
from bench.sent import record
from wats.testing import APP_SECRET, BEARER_TOKEN, VERIFY_TOKEN

HOOK = "/webhook"
API = "/api"
STATUSES_PER_SECOND = 45_000
"""More than any server here can receive: a round must not run out of messages."""

IGNORE = "bench.handlers:ignore"

ACCESS_TOKEN = "an-access-token-for-benchmarks"
GRAPH_VERSION = "v25.0"

_SECRETS = {
    "BENCH_APP_SECRET": APP_SECRET,
    "BENCH_BEARER_TOKEN": BEARER_TOKEN,
    "BENCH_VERIFY_TOKEN": VERIFY_TOKEN,
    "BENCH_ACCESS_TOKEN": ACCESS_TOKEN,
    "BENCH_PHONE_NUMBER_ID": PHONE_NUMBER_ID,
}


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of one contestant.

    Attributes:
        rate: Requests per second with a response.
        settled_rate: Updates handled and settled per second, until none was left; `None` where
            there is no inbox.
        cpu_us: The processor time of the server per request, in microseconds; for updates that are
            handled later, that too. Other processes on the machine affect it less than a rate.
        load_busy: The share of its core that the load generator needed. It and the latencies are
            `None` where there is no load generator.
    """

    rate: float
    settled_rate: float | None = None
    cpu_us: float | None
    p50_ms: float | None = None
    p99_ms: float | None = None
    load_busy: float | None = None


class Stage:
    """The environment of the contestants: cores, a folder for files, and their exit stack."""

    def __init__(self, cores: Cores, folder: Path, connections: int) -> None:
        self.cores = cores
        self.connections = connections
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def path(self, name: str) -> Path:
        """Return the path of a file, which is deleted in the end."""
        return self._folder / name

    def start(self, *arguments: str, on_load_core: bool = False) -> Server:
        """Start a server, on the core of the servers or on that of the load."""
        return self.enter(arguments, on_load_core=on_load_core)

    def enter(
        self,
        arguments: Sequence[str],
        *,
        on_load_core: bool = False,
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> Server:
        """Start a server as `start` does, with *environ* and *prefix*, see `Server`."""
        core = self.cores.load if on_load_core else self.cores.server
        server = Server(
            arguments, core=core, environ={**_SECRETS, **(environ or {})}, prefix=prefix
        )
        return self._stack.enter_context(server)

    def start_wats(
        self,
        name: str,
        *,
        database_url: str | None = None,
        handlers: Sequence[str] = (IGNORE,),
        graph_url: str = "http://127.0.0.1:9",
        families: str = "contract",
    ) -> Server:
        """Start `wats serve` from a config file."""
        config = self.path(f"{name}.json")
        config.write_text(json.dumps(_config(graph_url, database_url, families, handlers)))
        return self.start("wats", "serve", "--config", str(config), "--port", "0")


def _config(
    graph_url: str, database_url: str | None, families: str, handlers: Sequence[str]
) -> Mapping[str, object]:
    profile = {
        "graph": {"apiVersion": GRAPH_VERSION, "baseUrl": graph_url},
        "whatsapp": {"wabaId": WABA_ID, "phoneNumberId": PHONE_NUMBER_ID},
        "auth": {"accessToken": {"env": "BENCH_ACCESS_TOKEN"}},
        "webhook": {
            "path": HOOK,
            "verifyToken": {"env": "BENCH_VERIFY_TOKEN"},
            "appSecret": {"env": "BENCH_APP_SECRET"},
        },
        "service": {
            "host": "127.0.0.1",
            "port": 8787,
            "apiPrefix": API,
            "bearerToken": {"env": "BENCH_BEARER_TOKEN"},
        },
        "persistence": "none" if database_url is None else {"url": database_url},
        "telemetry": {"families": families},
        "messages": {"throughput": "off"},
        "handlers": list(handlers),
    }
    return {"version": 1, "defaultProfile": "bench", "profiles": {"bench": profile}}


def _unprepared(job: Job) -> Job:
    return job


class Entrant(Protocol):
    """A contestant that is ready for its rounds."""

    def measure(self, seconds: float) -> Round:
        """Run one round of *seconds*.

        Raises:
            ChildFailed: A request failed, or was not carried out.
        """

    def peak_mib(self) -> float | None:
        """Return the peak memory so far."""


class ServerEntrant(Entrant):
    """A running server, and the requests for it.

    Attributes:
        answers: The number of its responses so far.

    Args:
        inbox: The database whose deliveries must all be settled before a round counts.
        prepare: Called with the job of each round before the load begins; returns the job to run.
    """

    def __init__(
        self,
        server: Server,
        job: Job,
        cores: Cores,
        *,
        inbox: Inbox | None = None,
        prepare: Callable[[Job], Job] = _unprepared,
    ) -> None:
        self._server = server
        self._job = job
        self._cores = cores
        self._inbox = inbox
        self._prepare = prepare
        self.answers = 0

    @override
    def measure(self, seconds: float) -> Round:
        """Put load on the server for *seconds*, and wait until it has finished all requests."""
        job = msgspec.json.encode(
            self._prepare(msgspec.structs.replace(self._job, seconds=seconds))
        )
        timeout_seconds = seconds + 2 * PATIENCE_SECONDS
        used_before = self._server.cpu_seconds()
        output = run("bench.load", job, core=self._cores.load, timeout_seconds=timeout_seconds)
        sample = msgspec.json.decode(output, type=Sample)
        self.answers += sample.answers
        settled_rate = None
        if self._inbox is not None:
            settled_at = await_settled(self._inbox, self.answers)
            settled_rate = sample.answers / (settled_at - sample.began)
        used = self._server.cpu_seconds()
        return Round(
            rate=sample.answers / (sample.ended - sample.began),
            settled_rate=settled_rate,
            cpu_us=(
                None
                if used is None or used_before is None
                else (used - used_before) / sample.answers * 1e6
            ),
            p50_ms=sample.p50_ms,
            p99_ms=sample.p99_ms,
            load_busy=sample.busy,
        )

    @override
    def peak_mib(self) -> float | None:
        return self._server.peak_mib()


class LoopEntrant(Entrant):
    """A loop of aiohttp's client that calls Graph, in a new process for each round."""

    def __init__(self, order: PostingOrder, cores: Cores) -> None:
        self._order = order
        self._cores = cores
        self._peaks_mib: list[float] = []

    @override
    def measure(self, seconds: float) -> Round:
        order = msgspec.structs.replace(self._order, seconds=seconds)
        output = run(
            "bench.posting",
            msgspec.json.encode(order),
            core=self._cores.server,
            timeout_seconds=seconds + PATIENCE_SECONDS,
        )
        posted = msgspec.json.decode(output, type=Posted)
        if posted.peak_mib is not None:
            self._peaks_mib.append(posted.peak_mib)
        return Round(
            rate=posted.answers / posted.seconds, cpu_us=posted.cpu_seconds / posted.answers * 1e6
        )

    @override
    def peak_mib(self) -> float | None:
        return max(self._peaks_mib, default=None)


class Contestant(msgspec.Struct, frozen=True):
    """A server or a client that can be measured."""

    title: str
    enter: Callable[[Stage], Entrant]


def _rival(*arguments: str, expected: str) -> Callable[[Stage], Entrant]:
    def enter(stage: Stage) -> Entrant:
        server = stage.start(*arguments)
        return ServerEntrant(server, _webhooks(stage, server, expected), stage.cores)

    return enter


def _webhooks(stage: Stage, server: Server, expected: str) -> Job:
    return Job(
        port=server.port,
        path=HOOK,
        kind=Kind.WEBHOOK,
        secret=APP_SECRET,
        expected=expected,
        seconds=0,
        connections=stage.connections,
    )


def _stored(name: str, *handlers: str) -> Callable[[Stage], Entrant]:
    def enter(stage: Stage) -> Entrant:
        database = stage.path(f"{name}.db")
        server = stage.start_wats(name, database_url=f"sqlite:///{database}", handlers=handlers)
        job = _webhooks(stage, server, '"dispatched":1')
        return ServerEntrant(server, job, stage.cores, inbox=sqlite_inbox(database))

    return enter


def _enter_postgres(stage: Stage) -> Entrant:
    # On the core of the load: a database server is another machine, as a rule.
    url = stage.start("bench.postgres", str(stage.path("postgres")), on_load_core=True).url
    server = stage.start_wats("stored-postgres", database_url=url)
    job = _webhooks(stage, server, '"dispatched":1')
    return ServerEntrant(server, job, stage.cores, inbox=postgres_inbox(url))


def _enter_statuses(stage: Stage) -> Entrant:
    database = stage.path("statuses.db")
    server = stage.start_wats("statuses", database_url=f"sqlite:///{database}")

    def prepare(job: Job) -> Job:
        count = math.ceil(job.seconds * STATUSES_PER_SECOND / len(STATUSES)) + job.connections
        sent = Sent(run=secrets.token_hex(8), count=count)
        record(database, sent)
        return msgspec.structs.replace(job, kind=Kind.STATUS, sent=sent)

    job = _webhooks(stage, server, '"dispatched":1')
    return ServerEntrant(server, job, stage.cores, inbox=sqlite_inbox(database), prepare=prepare)


def _enter_inline(stage: Stage) -> Entrant:
    server = stage.start_wats("inline")
    return ServerEntrant(server, _webhooks(stage, server, '"dispatched":1'), stage.cores)


def _sender(name: str, kind: Kind, *, is_stored: bool = True) -> Callable[[Stage], Entrant]:
    def enter(stage: Stage) -> Entrant:
        graph = stage.start("bench.graph", on_load_core=True)
        database_url = f"sqlite:///{stage.path(name)}.db" if is_stored else None
        server = stage.start_wats(name, database_url=database_url, graph_url=graph.url)
        job = Job(
            port=server.port,
            path=f"{API}/messages/text",
            kind=kind,
            secret=BEARER_TOKEN,
            expected='"id":"wamid.',
            seconds=0,
            connections=stage.connections,
        )
        return ServerEntrant(server, job, stage.cores)

    return enter


def _enter_send_bare(stage: Stage) -> Entrant:
    graph = stage.start("bench.graph", on_load_core=True)
    order = PostingOrder(
        url=f"{graph.url}/{GRAPH_VERSION}/{PHONE_NUMBER_ID}/messages",
        access_token=ACCESS_TOKEN,
        seconds=0,
        connections=stage.connections,
    )
    return LoopEntrant(order, stage.cores)


_PYWA = "bench.rivals.pywa_server"

CONTESTANTS = {
    "ceiling": Contestant(
        "load generator against a constant", _rival("bench.rivals.constant", expected="ok")
    ),
    "pywa-fastapi": Contestant("pywa on FastAPI", _rival(_PYWA, "fastapi", expected="OK")),
    "pywa": Contestant("pywa on Starlette", _rival(_PYWA, "starlette", expected="OK")),
    "stored": Contestant("wats with SQLite", _stored("stored", IGNORE)),
    "statuses": Contestant("wats, statuses", _enter_statuses),
    "stored-read": Contestant("wats, content read", _stored("stored-read", "bench.handlers:read")),
    "stored-two": Contestant(
        "wats, two handlers", _stored("stored-two", IGNORE, "bench.handlers:ignore_too")
    ),
    "stored-slow": Contestant("wats, 20 ms handler", _stored("stored-slow", "bench.handlers:wait")),
    "stored-postgres": Contestant("wats with PostgreSQL", _enter_postgres),
    "bare": Contestant("uvicorn, bare: HMAC and JSON", _rival("bench.rivals.bare", expected="ok")),
    "inline": Contestant("wats without a store", _enter_inline),
    "send": Contestant("wats, sends", _sender("send", Kind.SEND)),
    "send-keyed": Contestant("wats, sends with a key", _sender("send-keyed", Kind.KEYED_SEND)),
    "send-bare": Contestant("aiohttp, bare: calls of Graph", _enter_send_bare),
    "send-inline": Contestant(
        "wats, sends without a store", _sender("send-inline", Kind.SEND, is_stored=False)
    ),
}
"""By the names that `--only` takes, in the order in which they take turns.

Compared servers are adjacent, so that disturbances of the machine affect both.
"""
