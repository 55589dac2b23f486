"""A real `wats serve` whose every secret, identifier and path is a canary, and its output."""

import asyncio
import gzip
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.privacy.asking import BEARER, PULLER, Ask, Asker
from tests.privacy.canaries import Canaries
from tests.privacy.wire import ask_one
from tests.settings import outstanding
from wats.config import WebhookConfig
from wats.testing import example_profile
from wats.web.table import route_table

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
TELEMETRY = {
    "/metrics": {},
    "/metrics as OpenMetrics": {"accept": OPEN_METRICS},
    "/metrics compressed": {"accept-encoding": "gzip"},
    "/status": {},
    "/debug/diagnostics": {},
    "/openapi.json": {},
}
"""The endpoints for operators, and the headers of their requests."""


HOOK = "the webhook's path"
"""The place of that canary."""

_SECRETS = ("ACCESS_TOKEN", "VERIFY_TOKEN", "APP_SECRET", "TOKEN", "TELEMETRY_TOKEN")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The configuration of a service.

    Attributes:
        handler: A handler in `hostile`, if the service has one.
        sink: A sink in `hostile`, if the service has one.
        launcher: A command that starts it.
        options: Further options of `wats serve`.
        environ: Variables for its environment.
        subscribers: The sections of its subscribers.
    """

    graph_url: str
    has_store: bool = True
    has_groups: bool = True
    handler: str | None = None
    sink: str | None = None
    workers: int = 1
    api_prefix: str = "/api"
    config_name: str = "wats.config.json"
    launcher: Sequence[str] = ()
    options: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    subscribers: Sequence[Mapping[str, Any]] = ()


async def read_telemetry(url: str, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return everything that operators and unauthenticated clients can read at *url*."""
    surfaces = {}
    tokens = {"": secrets["token"], " (telemetry)": secrets["telemetry_token"]}
    for name, headers in TELEMETRY.items():
        path = name.split(" ")[0]
        for whose, token in tokens.items():
            sent = {"authorization": BEARER + token, **headers}
            ask = Ask("telemetry", target=path, headers=tuple(sent.items()))
            status, head, body = await ask_one(url, ask)
            assert status == 200, name
            if b"content-encoding: gzip" in head:
                body = gzip.decompress(body)
            surfaces[name + whose] = (head + body).decode()
    anonymous = await ask_one(url, Ask("telemetry", target="/openapi.json"))
    surfaces["/openapi.json (anonymous)"] = anonymous.body.decode()
    return surfaces


@dataclass(kw_only=True)
class Service:
    """A running service.

    Attributes:
        secrets: By the names of `Asker`.
        surfaces: Its output so far, by surface.
        environ: Its environment.
    """

    folder: Path
    process: asyncio.subprocess.Process
    url: str
    hook: str
    phone_number_id: str
    secrets: Mapping[str, str]
    database: Path | None
    has_groups: bool
    surfaces: dict[str, str]
    environ: Mapping[str, str]

    async def command(self, *words: str) -> str:
        """Run a `wats` command in the folder of the service, and return all of its output."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wats", *words),
            cwd=self.folder,
            env=self.environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            output, _ = await process.communicate()
        return output.decode()

    def asker(self, canaries: Canaries) -> Asker:
        """Return the factory of its requests."""
        profile = example_profile(webhook=WebhookConfig(path=self.hook))
        table = route_table(profile, groups_enabled=self.has_groups)
        return Asker(canaries, table, hook=self.hook, secrets=self.secrets)

    def read_processes(self) -> None:
        """Read the parts of the process and its workers that every user of the machine can see."""
        shown = [
            path.read_text().replace("\0", " ")
            for pid in (self.process.pid, *self.workers())
            for name in ("cmdline", "comm", "task/*/comm")
            for path in Path(f"/proc/{pid}").glob(name)
        ]
        self.surfaces["processes"] = "\n".join(shown)

    def workers(self) -> list[int]:
        """Return the ids of the worker processes, if there are any."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it ended meanwhile
                pid, rest = path.read_text().split(" (", 1)
                if int(rest.rsplit(") ", 1)[1].split(" ")[1]) == self.process.pid:
                    found.append(int(pid))
        return found

    async def lose_a_worker(self) -> None:
        """End one of the workers as a fault would, and wait until there is another."""
        lost, *_ = self.workers()
        os.kill(lost, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "wats.worker.replaced" not in (self.folder / "stderr").read_text():
                await asyncio.sleep(0.05)

    async def wait_for_handlers(self) -> None:
        """Wait until every stored update was handled, or is a dead letter."""
        if self.database is None:
            return
        async with asyncio.timeout(PATIENCE_SECONDS):
            while outstanding(self.database):
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End it, and keep all that it wrote."""
        self.process.send_signal(signal.SIGTERM)
        rest, _ = await self.process.communicate()
        assert self.process.returncode == 0
        self.surfaces["stdout"] += rest.decode()
        self.surfaces["stderr"] = (self.folder / "stderr").read_text()
        self.surfaces["sink"] = (self.folder / "sink").read_text()


@asynccontextmanager
async def running(canaries: Canaries, folder: Path, setup: Setup) -> AsyncIterator[Service]:
    """Run `wats serve` in a folder of its own, whose name is a canary as well."""
    here = folder / canaries.word("folder")
    here.mkdir()
    (here / "sink").touch()
    secrets = {name: f"{canaries.word(name)}-{canaries.number(name)}" for name in _SECRETS}
    database = here / f"{canaries.word('database')}.db" if setup.has_store else None
    profile = _profile(canaries, setup, database)
    config = {"version": 1, "defaultProfile": "p", "profiles": {"p": profile}}
    (here / setup.config_name).write_text(json.dumps(config))
    environ = {**_environ(canaries, setup), **secrets}
    with (here / "stderr").open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(*setup.launcher, sys.executable, "-m", "wats"),
            *("serve", "--config", setup.config_name, "--port", "0", *setup.options),
            cwd=here,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            ready = await process.stdout.readline()
        assert ready, (here / "stderr").read_text()
        yield Service(
            folder=here,
            process=process,
            url=json.loads(ready)["url"],
            hook=profile["webhook"]["path"],
            phone_number_id=profile["whatsapp"]["phoneNumberId"],
            secrets={name.lower(): secret for name, secret in secrets.items()},
            database=database,
            has_groups=setup.has_groups,
            surfaces={"stdout": ready.decode()},
            environ=environ,
        )
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def _profile(canaries: Canaries, setup: Setup, database: Path | None) -> dict[str, Any]:
    telemetry = {"families": "operator", "bearerToken": {"env": "TELEMETRY_TOKEN"}}
    return {
        "graph": {
            "apiVersion": "v25.0",
            "baseUrl": f"{setup.graph_url}/{canaries.word('base path')}",
        },
        "whatsapp": {
            "wabaId": canaries.number("our account"),
            "phoneNumberId": canaries.number("our number"),
        },
        "auth": {"accessToken": {"env": "ACCESS_TOKEN"}},
        "webhook": {
            "path": f"/hooks/{canaries.word(HOOK)}",
            "verifyToken": {"env": "VERIFY_TOKEN"},
            "appSecret": {"env": "APP_SECRET"},
        },
        "service": {
            "host": "127.0.0.1",
            "port": 8787,
            "apiPrefix": setup.api_prefix,
            "bearerToken": {"env": "TOKEN"},
            "workers": setup.workers,
        },
        "persistence": {"url": f"sqlite:///{database}"} if database is not None else "none",
        "messages": {"throughput": "off"},  # Graph limits the rate at random
        "outbox": {"maxAttempts": 1},
        "groups": {"enabled": setup.has_groups},
        "handlers": [f"tests.privacy.hostile:{setup.handler}"] if setup.handler else [],
        "subscribers": list(setup.subscribers),
        "inbox": {"maxAttempts": 1},
        "pullers": [] if database is None else [{"name": PULLER, "kinds": ["callConnect"]}],
        "telemetry": telemetry
        if setup.sink is None
        else {**telemetry, "sink": f"tests.privacy.hostile:{setup.sink}"},
    }


def _environ(canaries: Canaries, setup: Setup) -> dict[str, str]:
    others = {**os.environ, **setup.environ}
    path = os.pathsep.join(filter(None, (str(ROOT), others.get("PYTHONPATH"))))
    words = ",".join(canaries.word("a failure of the sink") for _ in range(20))
    return {**others, "PYTHONPATH": path, "SINK_FILE": "sink", "SINK_WORDS": words}
