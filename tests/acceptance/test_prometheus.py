"""The scraper that operators have: Debian's Prometheus, with the material that we ship for it."""

import asyncio
import json
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import pytest
import yaml

from wats.config import TelemetryConfig
from wats.testing import BEARER_TOKEN

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="needs Debian's package 'prometheus'",
)

MATERIAL = Path(__file__).parents[2] / "operators"


def configure(url: str, folder: Path) -> Path:
    """Write the configuration that we ship, in a hurry, with one job more that has no token."""
    config = yaml.safe_load((MATERIAL / "prometheus.yml").read_text())
    hurry = ("scrape_interval", "scrape_timeout", "evaluation_interval")
    config["global"] = dict.fromkeys(hurry, "200ms")
    targets = [{"targets": [urlsplit(url).netloc]}]
    (scrape,) = config["scrape_configs"]
    scrape["static_configs"] = targets
    config["scrape_configs"].append({"job_name": "without-token", "static_configs": targets})
    (folder / scrape["authorization"]["credentials_file"]).write_text(f"{BEARER_TOKEN}\n")
    for rules in config["rule_files"]:
        shutil.copy(MATERIAL / rules, folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


class Prometheus:
    """A running Prometheus."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def ask(self, path: str) -> dict[str, Any]:
        """Return the response of the API, or nothing while Prometheus is not up."""
        try:
            async with self._session.get(f"{self._url}/api/v1/{path}") as answer:
                found: dict[str, Any] = await answer.json()
        except aiohttp.ClientError:
            return {}
        return found

    async def query(self, expression: str) -> list[float]:
        """Return the values of an instant query; none while it is not up."""
        found = await self.ask(f"query?query={quote(expression)}")
        return [float(each["value"][1]) for each in found.get("data", {}).get("result", [])]

    async def until(self, expression: str, values: list[float]) -> None:
        """Wait until the query has these values."""
        seen: Any = None
        try:
            async with asyncio.timeout(30):
                while (seen := await self.query(expression)) != values:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"{expression} is {seen}, not {values}")


@asynccontextmanager
async def scraping(url: str, folder: Path) -> AsyncIterator[Prometheus]:
    config = configure(url, folder)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    )
    try:
        async with aiohttp.ClientSession() as session:
            yield Prometheus(session, f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        await process.wait()


def envelope(number: int) -> dict[str, Any]:
    change = {"field": "account_update", "value": {"event": f"EVENT_{number}"}}
    entry = {"id": "123456789012345", "time": 1_790_000_000, "changes": [change]}
    return {"object": "whatsapp_business_account", "entry": [entry]}


@pytest.mark.long
async def test_prometheus_scrapes_a_service_and_counts_right(gateway, tmp_path) -> None:
    async with scraping(gateway.url, tmp_path) as prometheus:
        await prometheus.until('up{job="wats"}', [1])
        # The first failure of its kind will be seen: the series is there before it, at 0.
        failed = 'http_requests_total{route="/webhook",method="POST",status_class="4xx"}'
        await prometheus.until(failed, [0])
        for number in range(3):
            assert (await gateway.webhook(envelope(number))).status == 200
        await gateway.webhook(envelope(1))
        await gateway.webhook(envelope(1), signature="sha256=0")

        await prometheus.until("sum(webhook_normalization_total)", [4])
        await prometheus.until('sum(webhook_normalization_total{outcome="success"})', [3])
        await prometheus.until('sum(webhook_normalization_total{outcome="deduped"})', [1])
        await prometheus.until(failed, [1])
        await prometheus.until(f"increase({failed}[1m]) > bool 0", [1])
        await prometheus.until(
            'http_request_duration_seconds_count{route="/webhook",status_class="2xx"}', [4]
        )
        # Without the token there is nothing to scrape.
        await prometheus.until('up{job="without-token"}', [0])
        assert await prometheus.query('http_requests_total{job="without-token"}') == []


@pytest.mark.long
async def test_prometheus_parses_every_series_as_it_was_exposed(open_gateway, tmp_path) -> None:
    operator = TelemetryConfig(families="operator")
    async with (
        open_gateway(telemetry=operator) as gateway,
        scraping(gateway.url, tmp_path) as prometheus,
    ):
        await prometheus.until('up{job="wats"}', [1])
        compared = 'scrape_samples_scraped{job="wats"} - ignoring(kind) wats_series{kind="live"}'
        await prometheus.until(compared, [0])
        assert await prometheus.query("wats_worker_processes") == [1]
        assert await prometheus.query("wats_build_info") == [1]


@pytest.fixture
async def watched(open_gateway, tmp_path) -> AsyncIterator[tuple[Any, Prometheus]]:
    """A gateway with every family, which has worked a little, and a Prometheus that has seen it."""
    async with (
        open_gateway(telemetry=TelemetryConfig(families="operator")) as gateway,
        scraping(gateway.url, tmp_path) as prometheus,
    ):
        await gateway.webhook(envelope(1))
        await gateway.send_text("15550001234")
        # There is a rate once there have been two scrapes.
        await prometheus.until("sum(rate(send_outcomes_total[1m])) >= bool 0", [1])
        yield gateway, prometheus


@pytest.mark.long
async def test_prometheus_evaluates_every_rule_that_we_ship(watched) -> None:
    _, prometheus = watched
    groups = yaml.safe_load((MATERIAL / "rules.yml").read_text())["groups"]
    names = [rule.get("alert", rule.get("record")) for group in groups for rule in group["rules"]]

    rules: list[dict[str, Any]] = []
    async with asyncio.timeout(30):
        while not rules or any(rule["health"] == "unknown" for rule in rules):
            answer = await prometheus.ask("rules")
            rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]

    assert sorted(rule["name"] for rule in rules) == sorted(names)
    assert {rule["health"] for rule in rules} == {"ok"}
    # A service that has just started raises no alert, although its scraper lacks history.
    await prometheus.until('count(ALERTS{alertstate="firing"}) or vector(0)', [0])


@pytest.mark.long
async def test_prometheus_has_data_for_every_query_of_the_dashboard(watched) -> None:
    gateway, prometheus = watched
    panels = json.loads((MATERIAL / "dashboard.json").read_text())["panels"]
    queries = "\n".join(each["expr"] for panel in panels for each in panel.get("targets", ()))
    for name, value in {"$job": "wats", "$instance": ".+", "$__rate_interval": "1m"}.items():
        queries = queries.replace(name, value)
    exposed = (await gateway.ask("GET", "/metrics")).body.decode()
    answers = {}
    for query in queries.splitlines():
        answer = await prometheus.ask(f"query?query={quote(query)}")
        assert answer["status"] == "success", answer
        answers[query] = answer["data"]["result"]

    families = set(re.findall("^# TYPE ([a-z_]+) ", exposed, flags=re.MULTILINE))
    seen = {
        re.findall(r"([a-z_]+?)(?:_bucket)?\{", query)[0]
        for query, result in answers.items()
        if result
    }
    assert len(families) > 12
    assert seen - {"up"} == families


async def promtool(exposition: bytes) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        "promtool",
        *("check", "metrics"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate(exposition)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_promtool_accepts_the_exposition(gateway) -> None:
    fresh = (await gateway.ask("GET", "/metrics")).body
    await gateway.webhook(envelope(1))
    await gateway.send_text("15550001234", key="k")
    await gateway.send_text("15550000006")
    used = (await gateway.ask("GET", "/metrics")).body

    assert await promtool(fresh) == (0, "")
    assert await promtool(used) == (0, "")
