"""`wats demo`: the whole gateway in operation for a few seconds, killed once."""

import asyncio
import os
import secrets
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import click

from wats.cli.arguments import StrictCommand
from wats.inbound.updates import Update
from wats.process.children import Process

CUSTOMERS = 40
BURSTS = 60
MESSAGES_PER_BURST = 10
SENDS = 150
SENDERS = 5
DUPLICATES = 0.1
BURST_PAUSE_SECONDS = 0.12
SEND_PAUSE_SECONDS = 0.25
PATIENCE_SECONDS = 60.0

JOURNAL = "WATS_DEMO_JOURNAL"
TOKEN = "WATS_SERVICE_BEARER_TOKEN"  # noqa: S105 - the name of a variable
SECRET_NAMES = ("WATS_ACCESS_TOKEN", "WATS_VERIFY_TOKEN", "WATS_APP_SECRET", TOKEN)
HIDDEN = ("/metrics", "/status", "/debug/diagnostics")
SHOWN = ("http_requests_total", "webhook_normalization_total", "send_outcomes_total")


@click.command(cls=StrictCommand)
def demo() -> None:
    """Run a gateway and a fake Meta, kill the gateway under load, and count losses.

    The demo takes about 15 seconds, uses loopback connections only, and removes its files. The exit
    code is 0 if no acknowledged update was lost and no message was sent twice.
    """
    with tempfile.TemporaryDirectory(prefix="wats-demo-") as folder:
        good = asyncio.run(Demo(Path(folder)).run())
    if not good:
        raise SystemExit(1)


async def journal(update: Update) -> None:
    """Record that *update* was handled: the demo's handler, in the gateway's process."""
    with Path(os.environ[JOURNAL]).open("a", encoding="ascii") as file:  # noqa: ASYNC230
        file.write(f"{update.kind.value} {update.key}\n")


class Demo:
    """One run, in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = _free_port()
        self._url = f"http://127.0.0.1:{self._port}"
        self._environ = {name: secrets.token_urlsafe(24) for name in SECRET_NAMES}
        self._environ[JOURNAL] = str(folder / "journal")
        self._token = {"authorization": f"Bearer {self._environ[TOKEN]}"}
        self._config = folder / "wats.config.yaml"
        self._unknown_outcomes = 0
        self._duplicates = 0
        self._show = Progress()

    async def run(self) -> bool:
        """Run the demo; return whether it ended well."""
        say = self._show.say
        self._configure("http://127.0.0.1:9")  # nothing listens there yet
        serve = ("serve", "--config", str(self._config))
        simulate = ("simulate", "--config", str(self._config), "--port", "0")
        options = (
            "--webhook-url",
            f"{self._url}/webhooks/whatsapp",
            "--duplicates",
            str(DUPLICATES),
        )
        async with (
            aiohttp.ClientSession() as self._http,
            Process(*simulate, *options, environ=self._environ) as meta,
        ):
            self._configure(meta.url)
            say("The fake Meta is listening.")
            async with Process(*serve, environ=self._environ) as first:
                say("The gateway is listening, with an empty database.")
                work = asyncio.create_task(self._work(meta.url))
                await asyncio.sleep(4)
                self._duplicates += _duplicates_in(await self._metrics())
                await first.kill()
                say("The gateway was killed with SIGKILL, under load.")
            await asyncio.sleep(0.5)
            async with Process(*serve, environ=self._environ):
                say("The gateway was restarted, with the same database.")
                await work
                await self._until_quiet(meta.url)
                return await self._report(meta.url)

    def _configure(self, graph_url: str) -> None:
        database = self._folder / "demo.db"
        self._config.write_text(
            _CONFIG.format(port=self._port, database=database, graph_url=graph_url)
        )

    async def _work(self, meta_url: str) -> None:
        """Let customers write while an application of ours replies."""
        await asyncio.gather(self._write(meta_url), *(self._send(n) for n in range(SENDERS)))

    async def _write(self, meta_url: str) -> None:
        for burst in range(BURSTS):
            customer = _customer(burst % CUSTOMERS)
            wish = {"from": customer, "text": f"Message {burst}", "count": MESSAGES_PER_BURST}
            async with self._http.post(f"{meta_url}/_simulator/inbound", json=wish) as answer:
                answer.raise_for_status()
            self._show.tick(f"{(burst + 1) * MESSAGES_PER_BURST} messages written by customers")
            await asyncio.sleep(BURST_PAUSE_SECONDS)

    async def _send(self, sender: int) -> None:
        """Send a share of the messages, each with its key; retry requests without a response."""
        for number in range(sender, SENDS, SENDERS):
            body = {"to": _customer(number % CUSTOMERS), "text": f"Answer {number}"}
            headers = self._token | {"idempotency-key": f"demo-{number}"}
            answered = False
            while not answered:
                answered = await self._ask(body, headers)
                await asyncio.sleep(SEND_PAUSE_SECONDS)

    async def _ask(self, body: dict[str, str], headers: dict[str, str]) -> bool:
        try:
            async with self._http.post(
                f"{self._url}/api/messages/text", json=body, headers=headers
            ) as answer:
                await answer.read()
        except aiohttp.ClientError:
            return False
        if answer.status == 409:  # its first request died with the gateway
            self._unknown_outcomes += 1
        return answer.status in {200, 409}

    async def _until_quiet(self, meta_url: str) -> None:
        """Wait until Meta has delivered everything, and every update is handled."""
        with suppress(TimeoutError):  # then the report lists the missing ones
            async with asyncio.timeout(PATIENCE_SECONDS):
                quiet = False
                while not quiet:
                    await asyncio.sleep(0.5)
                    state = await self._json(f"{meta_url}/_simulator/state")
                    handled = len(set(self._journal()))
                    self._show.tick(f"{handled} updates handled")
                    quiet = state["pending"] == 0 and handled >= _accepted(state)

    async def _report(self, meta_url: str) -> bool:
        state = await self._json(f"{meta_url}/_simulator/state")
        handled = set(self._journal())
        statuses = await self._statuses()
        accepted = _accepted(state)
        lost = accepted - len(handled)
        metrics = await self._metrics()
        self._duplicates += _duplicates_in(metrics)
        sent_twice = state["sends"] - SENDS
        self._show.table(
            {
                "accepted": (accepted, "updates acknowledged to Meta"),
                "handled": (len(handled), "updates handled by the application's handler"),
                "sent": (state["sends"], "messages, one per idempotency key"),
                "delivered": (
                    statuses["delivered"] + statuses["read"],
                    "messages delivered to the customer",
                ),
                "duplicates ignored": (self._duplicates, "redelivered updates"),
                "outcome unknown": (
                    self._unknown_outcomes,
                    "idempotency keys whose send was cut off by the kill",
                ),
                "lost": (max(lost, 0), ""),
            }
        )
        self._show.say("Part of the response to a scrape with a valid token:")
        self._show.lines(
            line
            for line in metrics.splitlines()
            if line.startswith(SHOWN) and not line.endswith(" 0")
        )
        self._show.say("Responses without a token:")
        self._show.lines([f"GET {path}: {await self._text(path, {})}" for path in HIDDEN])
        return bool(lost == 0 and sent_twice <= 0)

    async def _statuses(self) -> Counter[str]:
        found: Counter[str] = Counter()
        cursor: str | None = ""
        while cursor is not None:
            query = f"?limit=100&cursor={cursor}" if cursor else "?limit=100"
            page = await self._json(f"{self._url}/api/messages{query}", self._token)
            found.update(item["status"] for item in page["items"])
            cursor = page["nextCursor"]
        return found

    async def _metrics(self) -> str:
        return await self._text("/metrics", self._token)

    def _journal(self) -> list[str]:
        path = Path(self._environ[JOURNAL])
        return path.read_text().splitlines() if path.exists() else []

    async def _json(self, url: str, headers: dict[str, str] | None = None) -> Any:
        async with self._http.get(url, headers=headers) as answer:
            return await answer.json()

    async def _text(self, path: str, headers: dict[str, str]) -> str:
        async with self._http.get(self._url + path, headers=headers) as answer:
            text = await answer.text()
            return text if answer.ok else f"{answer.status} {text}"


class Progress:
    """Prints progress: plain lines, and on a terminal also a line that changes in place."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()

    def say(self, sentence: str) -> None:
        """Print *sentence* on a line of its own."""
        self._clear()
        click.secho(sentence, bold=True)

    def tick(self, state: str) -> None:
        """Show *state* until the next line, if the output is a terminal."""
        if self._live:
            self._clear()
            click.secho(f"  {state} …", dim=True, nl=False)

    def table(self, rows: dict[str, tuple[int, str]]) -> None:
        """Print names and numbers below each other."""
        self._clear()
        for name, (number, meaning) in rows.items():
            click.echo(f"  {name} {number}".ljust(28) + meaning)

    def lines(self, lines: Iterable[str]) -> None:
        """Print *lines* with an indent."""
        for line in lines:
            click.echo(f"  {line}")

    def _clear(self) -> None:
        if self._live:
            click.echo("\r\x1b[2K", nl=False)


def _accepted(state: dict[str, int]) -> int:
    """Return how many different updates were acknowledged with 200."""
    return state["delivered"] - state["duplicates"]


def _duplicates_in(metrics: str) -> int:
    lines = [line for line in metrics.splitlines() if 'outcome="deduped"' in line]
    return sum(int(line.rpartition(" ")[2]) for line in lines)


def _customer(number: int) -> str:
    """Return an unused number; its last digits select no failure."""
    return f"1555010{5000 + number}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_CONFIG = """\
version: 1
defaultProfile: demo
profiles:
  demo:
    graph: {{apiVersion: v25.0, baseUrl: "{graph_url}"}}
    whatsapp: {{wabaId: "100000000000001", phoneNumberId: "200000000000002"}}
    auth: {{accessToken: {{env: WATS_ACCESS_TOKEN}}}}
    webhook:
      path: /webhooks/whatsapp
      verifyToken: {{env: WATS_VERIFY_TOKEN}}
      appSecret: {{env: WATS_APP_SECRET}}
    service:
      host: 127.0.0.1
      port: {port}
      apiPrefix: /api
      bearerToken: {{env: WATS_SERVICE_BEARER_TOKEN}}
    persistence: {{url: "sqlite:///{database}"}}
    handlers: ["wats.cli.demo:journal"]
    inbox: {{leaseSeconds: 3}}
"""
