"""The scraper that operators have: Debian's Prometheus, with the configuration of our manual."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import pytest

from wats.testing import BEARER_TOKEN

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="needs Debian's package 'prometheus'",
)

SCRAPE = """\
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs:
  - job_name: wats
    authorization: {{credentials_file: {folder}/token}}
    static_configs: [{{targets: ["{target}"]}}]
  - job_name: stranger
    static_configs: [{{targets: ["{target}"]}}]
"""


class Prometheus:
    """A running Prometheus."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def query(self, expression: str) -> list[float]:
        """Return the values of an instant query; none while it is not up."""
        url = f"{self._url}/api/v1/query?query={quote(expression)}"
        try:
            async with self._session.get(url) as answer:
                found = await answer.json()
        except aiohttp.ClientError:
            return []
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
    (folder / "token").write_text(BEARER_TOKEN + "\n")
    config = SCRAPE.format(folder=folder, target=urlsplit(url).netloc)
    (folder / "prometheus.yml").write_text(config)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
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
        await prometheus.until('up{job="stranger"}', [0])
        assert await prometheus.query('http_requests_total{job="stranger"}') == []


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


async def test_promtool_has_nothing_to_say_about_the_exposition(gateway) -> None:
    fresh = (await gateway.ask("GET", "/metrics")).body
    await gateway.webhook(envelope(1))
    await gateway.send_text("15550001234", key="k")
    await gateway.send_text("15550000006")
    used = (await gateway.ask("GET", "/metrics")).body

    assert await promtool(fresh) == (0, "")
    assert await promtool(used) == (0, "")
