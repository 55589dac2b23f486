"""Who is measured, and how each of them is started."""

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec

from bench.load import PATIENCE_SECONDS, Job, Kind, Sample
from bench.machine import Cores
from bench.payloads import PHONE_NUMBER_ID, WABA_ID
from bench.processes import ChildFailed, Server, run
from wats.testing import APP_SECRET, BEARER_TOKEN, VERIFY_TOKEN

HOOK = "/webhook"
API = "/api"
DRAIN_SECONDS = 60.0
LOOK_SECONDS = 0.002

_SECRETS = {
    "BENCH_APP_SECRET": APP_SECRET,
    "BENCH_BEARER_TOKEN": BEARER_TOKEN,
    "BENCH_VERIFY_TOKEN": VERIFY_TOKEN,
    "BENCH_ACCESS_TOKEN": "an-access-token-for-benchmarks",
    "BENCH_PHONE_NUMBER_ID": PHONE_NUMBER_ID,
}
_OUTSTANDING = "SELECT EXISTS (SELECT 1 FROM wats_outstanding)"
_HANDLED = """
SELECT count(*) FROM wats_inbox WHERE id NOT IN (SELECT update_id FROM wats_outstanding)
"""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of one contestant.

    Attributes:
        rate: Requests answered per second.
        settled_rate: Updates handled and settled per second, until none was left; `None` where
            there is no inbox.
        cpu_us: The processor time of the server for one request, in microseconds; for updates that
            are handled later, that too. Other processes on the machine disturb it less than a rate.
        load_busy: The share of its core that the load generator needed.
    """

    rate: float
    settled_rate: float | None
    cpu_us: float | None
    p50_ms: float
    p99_ms: float
    load_busy: float


class Stage:
    """Where the contestants run: the cores, a folder for their files, and the end of them all."""

    def __init__(self, cores: Cores, folder: Path, connections: int) -> None:
        self.cores = cores
        self.connections = connections
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, *arguments: str, beside_load: bool = False) -> Server:
        """Start a server, on the core of the servers or on that of the load."""
        core = self.cores.load if beside_load else self.cores.server
        return self._stack.enter_context(Server(arguments, core=core, environ=_SECRETS))

    def start_wats(
        self,
        name: str,
        *,
        stored: bool,
        graph_url: str = "http://127.0.0.1:9",
        families: str = "contract",
    ) -> tuple[Server, Path]:
        """Start `wats serve` from a config file; return it with the place of its database."""
        database = self._folder / f"{name}.db"
        config = self._folder / f"{name}.json"
        config.write_text(json.dumps(_config(graph_url, database if stored else None, families)))
        return self.start("wats", "serve", "--config", str(config), "--port", "0"), database


def _config(graph_url: str, database: Path | None, families: str) -> Mapping[str, object]:
    profile = {
        "graph": {"apiVersion": "v25.0", "baseUrl": graph_url},
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
        "persistence": {"url": f"sqlite:///{database}"} if database is not None else "none",
        "telemetry": {"families": families},
        "handlers": ["bench.handlers:ignore"],
    }
    return {"version": 1, "defaultProfile": "bench", "profiles": {"bench": profile}}


class Entrant:
    """A server that is up, and what it is asked.

    Args:
        inbox: The database whose deliveries must all be settled before a round counts.
    """

    def __init__(self, server: Server, job: Job, cores: Cores, inbox: Path | None = None) -> None:
        self._server = server
        self._job = job
        self._cores = cores
        self._inbox = inbox
        self._answers = 0

    def measure(self, seconds: float) -> Round:
        """Put load on the server for *seconds*, and wait until it is done with all of it.

        Raises:
            ChildFailed: The load could not be put, or not every update was handled.
        """
        job = msgspec.json.encode(msgspec.structs.replace(self._job, seconds=seconds))
        timeout_seconds = seconds + 2 * PATIENCE_SECONDS
        used_before = self._server.cpu_seconds()
        output = run("bench.load", job, core=self._cores.load, timeout_seconds=timeout_seconds)
        sample = msgspec.json.decode(output, type=Sample)
        self._answers += sample.answers
        settled_rate = None
        if self._inbox is not None:
            settled_at = _settled_at(self._inbox, self._answers)
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

    def peak_mib(self) -> float | None:
        """Return the most memory that the server had so far."""
        return self._server.peak_mib()


def _settled_at(inbox: Path, answers: int) -> float:
    """Wait until nothing is outstanding in *inbox*, and see that all of *answers* were handled."""
    give_up_at = time.monotonic() + DRAIN_SECONDS
    with closing(sqlite3.connect(f"file:{inbox}?mode=ro", uri=True)) as connection:
        while connection.execute(_OUTSTANDING).fetchone()[0]:
            if time.monotonic() > give_up_at:
                msg = "The inbox was not drained in time."
                raise ChildFailed(msg)
            time.sleep(LOOK_SECONDS)
        settled_at = time.monotonic()
        (handled,) = connection.execute(_HANDLED).fetchone()
    if handled != answers:
        msg = f"{answers} webhooks were acknowledged and {handled} were handled."
        raise ChildFailed(msg)
    return settled_at


class Contestant(msgspec.Struct, frozen=True):
    """Somebody who can be measured."""

    title: str
    enter: Callable[[Stage], Entrant]


def _rival(*arguments: str, expected: str) -> Callable[[Stage], Entrant]:
    def enter(stage: Stage) -> Entrant:
        server = stage.start(*arguments)
        return Entrant(server, _webhooks(stage, server, expected), stage.cores)

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


def _enter_stored(stage: Stage) -> Entrant:
    server, database = stage.start_wats("stored", stored=True)
    job = _webhooks(stage, server, '"dispatched":1')
    return Entrant(server, job, stage.cores, inbox=database)


def _enter_inline(stage: Stage) -> Entrant:
    server, _ = stage.start_wats("inline", stored=False)
    return Entrant(server, _webhooks(stage, server, '"dispatched":1'), stage.cores)


def _sender(kind: Kind) -> Callable[[Stage], Entrant]:
    def enter(stage: Stage) -> Entrant:
        graph = stage.start("bench.graph", beside_load=True)
        server, _ = stage.start_wats(kind.value, stored=True, graph_url=graph.url)
        job = Job(
            port=server.port,
            path=f"{API}/messages/text",
            kind=kind,
            secret=BEARER_TOKEN,
            expected='"id":"wamid.',
            seconds=0,
            connections=stage.connections,
        )
        return Entrant(server, job, stage.cores)

    return enter


_PYWA = "bench.rivals.pywa_server"

CONTESTANTS = {
    "ceiling": Contestant(
        "load generator against a constant", _rival("bench.rivals.constant", expected="ok")
    ),
    "pywa-fastapi": Contestant("pywa on FastAPI", _rival(_PYWA, "fastapi", expected="OK")),
    "pywa": Contestant("pywa on Starlette", _rival(_PYWA, "starlette", expected="OK")),
    "stored": Contestant("wats with SQLite", _enter_stored),
    "bare": Contestant("uvicorn, bare: HMAC and JSON", _rival("bench.rivals.bare", expected="ok")),
    "inline": Contestant("wats without a store", _enter_inline),
    "send": Contestant("wats, sends", _sender(Kind.SEND)),
    "send-keyed": Contestant("wats, sends with a key", _sender(Kind.KEYED_SEND)),
}
"""By the names that `--only` takes, in the order in which they take turns: who is compared stands
beside the other, so that what the machine does meanwhile hits both."""
