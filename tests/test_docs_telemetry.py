"""docs/telemetry.md is followed from its top to its end, as by a reader.

Its files are written to a folder as their first lines name them, next to those of the README. YAML
without a name goes into the profile of the README's config. Each `sh` block is run by a reader
(`tests/walk.py`). No server listens at the configured address of Graph.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
import yaml

from tests.pages import (
    PAGES,
    ROOT,
    SECRETS,
    blocks,
    blocks_in,
    blocks_of,
    commands_in,
    lay_out,
    load,
    spans,
)
from tests.walk import (
    COLLECTOR,
    LONGEST_SECONDS,
    SERVE,
    Reader,
    Said,
    free_port,
    is_installed,
    section,
)
from wats.testing import BEARER_TOKEN, serving
from wats.web.ops.status import Diagnostics, ServiceStatus

pytestmark = pytest.mark.long

PAGE = "docs/telemetry.md"

for_programs = pytest.mark.skipif(
    not is_installed("curl", "promtool"),
    reason="curl or promtool is not installed",
)


class Desk(Reader):
    """A reader with the config and the secrets of the README, and all files of the page."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.modules = lay_out(self.folder)
        self.configure({})  # with the ports of this reader
        shutil.copy(ROOT / "operators/rules.yml", self.folder)
        for block in blocks_of(PAGES[PAGE]):
            if block.language == "yaml" and block.name:
                self.lay_out(block)

    def get(self, path: str, token: str) -> int:
        """Return the status of the gateway's response."""
        return self._ask("GET", path, token)

    def send_text(self) -> int:
        """Send a message through the gateway, and return the status of its response."""
        body = json.dumps({"to": "15550001234", "text": "Hi"})
        return self._ask("POST", "/api/messages/text", BEARER_TOKEN, body)

    def token_in(self, name: str) -> str:
        return (self.folder / name).read_text().strip()

    def _ask(self, method: str, path: str, token: str, body: str | None = None) -> int:
        address = self.url.removeprefix("http://")
        with closing(HTTPConnection(address, timeout=LONGEST_SECONDS)) as connection:
            connection.request(method, path, body, {"authorization": f"Bearer {token}"})
            return connection.getresponse().status


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Desk(tmp_path) as desk:
        yield desk


class Collector:
    """Receives exports, and remembers their path."""

    def __init__(self, port: int) -> None:
        self.paths: list[str] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                collector.paths.append(self.path)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    collector = Collector(port)
    thread = Thread(target=collector.server.serve_forever, args=(0.01,))
    with collector.server:
        thread.start()
        try:
            yield collector
        finally:
            collector.server.shutdown()
            thread.join()


class Walk(NamedTuple):
    """The results of following the page."""

    desk: Desk
    said: list[Said]
    exported: list[str]

    def out_of(self, beginning: str) -> str:
        """Return the output of the last command that begins with this text."""
        return next(each.out for each in reversed(self.said) if each.command.startswith(beginning))


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    desk = Desk(tmp_path_factory.mktemp("reader"))
    with collecting(int(desk.placed(COLLECTOR))) as collector, desk:
        said = list(desk.follow(PAGES[PAGE]))
    return Walk(desk, said, collector.paths)


def section_of(heading: str) -> str:
    return section(PAGES[PAGE], heading)


@for_programs
def test_every_command_that_is_shown_succeeds(walk: Walk) -> None:
    assert [each for each in walk.said if each.code != 0] == []
    assert len(walk.said) > 12


def test_every_command_that_is_named_is_shown_and_so_is_run() -> None:
    shown = [line for block in blocks(PAGE, "sh") for line in commands_in(block)]
    named = {each for each in spans(PAGES[PAGE]) if re.match(r"(wats|curl|pip|promtool) ", each)}

    assert [name for name in named if not any(name in line for line in shown)] == []
    # Its other commands are run by tests/test_bench.py.
    assert {each for each in spans(PAGES[PAGE]) if each.startswith("python ")} == {
        "python -m bench --only hiding",
        "python -m bench --only telemetry",
    }


def test_the_section_that_is_shown_replaces_that_of_a_new_config(tmp_path: Path) -> None:
    shown = textwrap.indent(blocks(PAGE, "yaml")[0], " " * 4)
    with Reader(tmp_path) as reader:
        assert reader.run("wats init && wats token > telemetry-token").code == 0
        config = reader.folder / "wats.config.yaml"
        written, count = re.subn(
            r"^    telemetry:\n(?:      .*\n)+", shown, config.read_text(), flags=re.MULTILINE
        )
        config.write_text(written)

        said = reader.run("wats config validate")

    assert count == 1
    assert said.code == 0, said.err


def test_the_file_of_the_token_has_one_name() -> None:
    config = yaml.safe_load((ROOT / "operators/prometheus.yml").read_text("utf-8"))
    section, *others = (yaml.safe_load(each) for each in blocks(PAGE, "yaml"))
    (shown,) = (each for each in others if "scrape_configs" in each)

    (scraped,), (minimal,) = config["scrape_configs"], shown["scrape_configs"]
    name = section["telemetry"]["bearerToken"]["file"]
    for each in (scraped, minimal):
        assert each["authorization"]["credentials_file"] == name


@for_programs
def test_the_metrics_are_those_of_the_chosen_families(walk: Walk) -> None:
    text, openmetrics = (
        walk.out_of("curl -s -H @telemetry-header http://127.0.0.1:8787/metrics"),
        walk.out_of("curl -s -H @telemetry-header --compressed"),
    )

    assert text.startswith("# HELP http_requests_total ")
    assert openmetrics.startswith("# HELP http_requests ")
    assert openmetrics.endswith("# EOF\n")
    for exposition in (text, openmetrics):
        assert "\nwats_worker_processes 1\n" in exposition


@for_programs
def test_the_documented_response_without_a_token_is_accurate(walk: Walk) -> None:
    (shown,) = blocks(PAGE, "text")

    for each in walk.said:
        if each.command.startswith("curl -si"):
            assert re.sub("(?m)^date: .*$", "", each.out + "\n") == re.sub(
                "(?m)^date: .*$", "", shown
            )
    assert sum(each.command.startswith("curl -si") for each in walk.said) == 2


RESPONSES: Mapping[str, type[msgspec.Struct]] = {
    "/status": ServiceStatus,
    "/debug/diagnostics": Diagnostics,
}


def keys_of(document: Any) -> Iterator[str]:
    """Yield every key of a document, but not the names of errors, which are none of ours."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield key
            yield from keys_of(value if key != "recentErrors" else None)


@for_programs
@pytest.mark.parametrize("path", RESPONSES)
def test_exactly_the_fields_of_a_response_are_explained(walk: Walk, path: str) -> None:
    answer = json.loads(walk.out_of(f"curl -s -H @telemetry-header http://127.0.0.1:8787{path}"))
    section = section_of(path)
    explained = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)

    text = section_of("/status") + section
    assert [key for key in keys_of(answer) if not re.search(rf"\b{key}\b", text)] == []
    assert len(explained) > 3
    optional = {
        field.encode_name
        for field in msgspec.structs.fields(RESPONSES[path])
        if field.default is msgspec.UNSET
    }
    assert optional <= set(explained) <= answer.keys() | optional


@for_programs
def test_the_doctor_prints_the_checks_that_the_checklist_promises(walk: Walk) -> None:
    printed = re.findall(r"^  (\w+) +(\S.*)$", walk.out_of("wats doctor"), flags=re.MULTILINE)
    listed = re.findall(
        r"^\| `\w+` \| (.*) \| (.*) \|$", section_of("Checklist"), flags=re.MULTILINE
    )

    verdicts = {"you": "unknown", "`wats doctor`": "holds"}
    assert {(verdict, promise) for verdict, promise in printed if verdict in verdicts.values()} == {
        (verdicts[who], promise) for promise, who in listed
    }


@for_programs
def test_the_bundle_is_written(walk: Walk) -> None:
    bundle = json.loads((walk.desk.folder / "bundle.json").read_text())

    assert bundle["service"]["metrics"]["leftOut"] == 0


@for_programs
def test_the_schema_has_the_families_of_the_table(walk: Walk) -> None:
    schema = json.loads(walk.out_of("wats metrics schema --json"))
    listed = re.findall(r"^\| `(\w+)` \|", section_of("Families"), flags=re.MULTILINE)

    names = [family["name"] for family in schema["families"]]
    assert [name for name in listed if name in names] == names
    assert all(name in walk.out_of("wats metrics schema") for name in names)


@for_programs
def test_metrics_and_spans_arrive_at_the_collector(walk: Walk) -> None:
    assert set(walk.exported) == {"/v1/metrics", "/v1/traces"}


def test_variables_of_opentelemetry_are_not_read_from_an_env_file(desk: Desk) -> None:
    desk.configure({"telemetry": {"sink": "wats.telemetry.otel:from_environment"}})
    with collecting() as collector:
        with (desk.folder / "wats.env").open("a") as file:
            file.write(f"OTEL_EXPORTER_OTLP_ENDPOINT=http://{collector.address}\n")
        with desk.serving(SERVE):
            assert desk.get("/status", BEARER_TOKEN) == 200

    assert collector.paths == []


async def test_the_documented_application_exports_its_telemetry(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk.folder)
    monkeypatch.syspath_prepend(str(desk.folder))
    for key, value in SECRETS.items():
        monkeypatch.setenv(key, value)
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{collector.address}")
        module = load(desk.folder / "observed.py")
        async with (
            serving(module.app) as url,
            aiohttp.ClientSession() as session,
            session.get(f"{url}/healthz") as answer,
        ):
            assert answer.status == 200
        await asyncio.to_thread(module.sink.close)
    for name in desk.modules:
        sys.modules.pop(name, None)

    assert set(collector.paths) == {"/v1/metrics", "/v1/traces"}


def test_the_journal_that_is_shown_has_the_life_and_the_failures_of_a_service(desk: Desk) -> None:
    shown = [yaml.safe_load(block) for block in blocks(PAGE, "yaml")]
    desk.configure(next(each for each in shown if "journal" in str(each)))
    with desk.serving(SERVE):
        assert desk.send_text() == 502

    lines = (desk.folder / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == [
        "wats.started",
        "graph_operations_total",
        "send_outcomes_total",
        "wats.draining",
    ]


Ask = Callable[[str], Mapping[str, float]]


@contextmanager
def scraping(desk: Desk) -> Iterator[Ask]:
    """Run Prometheus with the page's config, and a second job with a variable for the token.

    Yields a function that runs a query and returns the values by job.
    """
    config = yaml.safe_load((desk.folder / "prometheus.yml").read_text())
    (scrape,) = config["scrape_configs"]
    literal = {"job_name": "literal", "bearer_token": "${WATS_TELEMETRY_TOKEN}"}
    config["scrape_configs"].append({"static_configs": scrape["static_configs"], **literal})
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
    (desk.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address={address}",
            "--log.level=error",
        ],
        cwd=desk.folder,
        env={**os.environ, "WATS_TELEMETRY_TOKEN": desk.token_in("telemetry-token")},
    )

    def ask(query: str) -> Mapping[str, float]:
        try:
            with closing(HTTPConnection(address, timeout=LONGEST_SECONDS)) as connection:
                connection.request("GET", f"/api/v1/query?query={quote(query)}")
                answer = connection.getresponse()
                found = json.load(answer)["data"]["result"] if answer.status == 200 else []
        except ConnectionError:  # it is not up yet; later it is up, and not ready
            return {}
        return {each["metric"]["job"]: float(each["value"][1]) for each in found}

    with process:
        try:
            yield ask
        finally:
            process.kill()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_prometheus_scrapes_with_the_token_in_a_file_and_not_with_a_variable(desk: Desk) -> None:
    desk.configure(yaml.safe_load(blocks(PAGE, "yaml")[0]))
    desk.run("wats token > telemetry-token")
    with desk.serving(SERVE), scraping(desk) as ask:
        until = time.monotonic() + LONGEST_SECONDS
        # The requests of the second job are counted in the samples that the first one scrapes.
        while not ask('wats_auth_failures_total{job="wats",surface="telemetry"} > 0'):
            assert time.monotonic() < until
            time.sleep(0.05)
        up = ask("up")

    assert up == {"wats": 1.0, "literal": 0.0}


def test_a_token_is_changed_as_it_is_shown_without_a_moment_in_which_none_is_good(
    desk: Desk,
) -> None:
    desk.run("wats token > telemetry-token")
    tokens = [desk.token_in("telemetry-token")]
    answers = []
    for language, block in blocks_in(section(PAGES["docs/operating.md"], "Tokens")):
        if language == "sh":
            assert desk.run(block).code == 0
            continue
        if len(tokens) == 1:
            tokens.append(desk.token_in("telemetry-token.next"))
        desk.configure(yaml.safe_load(block))
        with desk.serving(SERVE):
            answers.append([desk.get("/status", token) for token in tokens])

    assert answers == [[200, 200], [404, 200]]
