"""The documentation is held to the code: what it says exists, and what exists is said."""

import asyncio
import contextlib
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import click
import pytest
import yaml

from tests.pages import (
    PAGES,
    ROOT,
    SECRETS,
    WEBHOOK,
    blocks,
    commands_in,
    lay_out,
    load,
    spans,
)
from wats import create_wats_service_app, open_store
from wats.config import config_keys, parse_config
from wats.store.records import (
    Arrival,
    Delivery,
    DeliveryState,
    Direction,
    MessageRecord,
    Settlement,
    StatusRecord,
)
from wats.telemetry.families import FAMILIES
from wats.testing import BEARER_TOKEN, example_profile, example_secrets, serving, sign
from wats.web.routes import route_table

MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
NO_KEYS = {"service.py", "service.instance"}
"""What looks like keys of the config: a module, and the beginning of OpenTelemetry's attribute."""

generate = load(ROOT / "docs/generate.py")


def shell_lines(page: str) -> list[str]:
    commands = [line for block in blocks(page, "sh") for line in commands_in(block)]
    return [line.strip() for line in (*commands, *spans(PAGES[page]))]


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("path", generate.PAGES, ids=lambda path: path.stem)
def test_what_is_generated_is_fresh(path: Path) -> None:
    page = path.read_text("utf-8")

    assert generate.render(page) == page, "Run .venv/bin/python docs/generate.py."


def test_every_generated_block_stands_on_one_page() -> None:
    marks = re.findall("<!-- ([a-z-]+): begin -->", "".join(PAGES.values()))

    assert sorted(marks) == sorted(generate.BLOCKS)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_is_named_exists(page: str) -> None:
    folders = re.compile(r"(src|tests|docs|operators|bench)/[^:*…]+$")
    paths = [each for each in spans(PAGES[page]) if folders.match(each)]

    planned = "src/wats/store/migrations/sqlite/0002_what_it_does.sql"
    assert [path for path in paths if path != planned and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_is_named_exists(page: str) -> None:
    named = {line.split()[1] for line in shell_lines(page) if re.match(r"make [a-z]", line)}

    assert named <= set(re.findall(r"^([a-z]+):", MAKEFILE, flags=re.MULTILINE))


def test_every_make_target_is_documented() -> None:
    targets = re.findall(r"^([a-z]+):", MAKEFILE, flags=re.MULTILINE)

    assert [each for each in targets if f"`make {each}`" not in PAGES["CONTRIBUTING.md"]] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_named_exists(page: str) -> None:
    commands = dict(generate.walk_commands())
    unknown = []
    for line in shell_lines(page):
        words = shlex.split(line) if re.match(r"(\.venv/bin/)?wats [a-z-]", line) else []
        named = (word for word in words[1:3] if re.fullmatch("[a-z][a-z-]*", word))
        path = " ".join(["wats", *named])
        if words and path not in commands:
            unknown.append(line)
            continue
        known = {name for each in commands[path].params for name in each.opts} | {"--help"}
        unknown += [line for word in words if word.startswith("--") and word not in known]

    assert unknown == []


def test_every_command_and_option_is_documented() -> None:
    page = PAGES["docs/cli.md"]

    for path, command in generate.walk_commands():
        help_of_it = page.partition(f"\n## `{path}`\n")[2].partition("\n## ")[0]
        options = [each for each in command.params if isinstance(each, click.Option)]
        assert all(name in help_of_it for each in options for name in each.opts), path


@pytest.mark.parametrize("page", PAGES)
def test_every_config_key_that_is_named_exists(page: str) -> None:
    keys = {key.path.removeprefix("profiles.NAME.") for key in config_keys()}
    sections = "|".join({key.partition(".")[0] for key in keys if "." in key})
    named = {
        match[0]
        for span in spans(PAGES[page])
        if (match := re.match(rf"(?:{sections})\.[a-zA-Z]+", span)) and match[0] not in NO_KEYS
    }

    assert named <= keys


def test_every_config_key_is_documented() -> None:
    page = PAGES["docs/configuration.md"]

    assert [key.path for key in config_keys() if f"| `{key.path}` |" not in page] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_config_file_that_is_shown_can_be_used(page: str) -> None:
    for block in blocks(page, "yaml"):
        if block.startswith("version:"):
            assert parse_config(yaml.safe_load(block)).profiles


def test_every_metric_family_is_documented_and_no_other() -> None:
    page = PAGES["docs/telemetry.md"]
    named = set(re.findall(r"\b[a-z_]+_(?:total|depth)\b", "".join(PAGES.values())))

    explained = "".join(line for line in page.splitlines() if line.startswith("- `"))
    assert [each.name for each in FAMILIES if f"`{each.name}`" not in explained] == []
    assert named <= {each.name for each in FAMILIES}


def test_every_error_code_is_documented_and_no_other() -> None:
    page = PAGES["docs/errors.md"]
    codes = {*generate.answered_codes(), *generate.raised_at_start()}

    assert {*generate.HTTP_MEANINGS, *generate.START_MEANINGS} == codes
    assert [code for code in codes if f"| `{code}` |" not in page] == []


def test_every_route_is_documented() -> None:
    page = PAGES["docs/http-api.md"]

    for row in route_table(example_profile(), groups_enabled=True):
        path = row.label.replace("/api/", "P/").replace("/webhook", "HOOK")
        for operation in row.operations:
            assert f"| {operation.method.value} | `{path}` |" in page


def test_every_event_of_the_log_is_documented_and_no_other() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src/wats").rglob("*.py"))
    events = re.findall(
        r'(?:"event": |failures\(|FailureLog\(|announce\()"(wats\.[a-z.]+)"', source
    )
    documented = re.findall(r"^\| `(wats\.[a-z.]+)` \|", PAGES["docs/operating.md"], re.MULTILINE)

    assert set(documented) == {each for each in events if each != "wats.ready"}


async def test_the_sql_that_is_shown_runs_on_our_schema(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'wats.db'}")
    await store.open()
    await store.close()

    with contextlib.closing(sqlite3.connect(tmp_path / "wats.db")) as connection:
        for script in blocks("docs/operating.md", "sql"):
            connection.executescript(script)


async def test_a_person_is_forgotten_as_it_is_shown_and_others_are_not(tmp_path: Path) -> None:
    path, noon = tmp_path / "wats.db", datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    store = open_store(f"sqlite:///{path}")
    await store.open()
    for person in ("15550001234", "15550009999"):
        sent = [sent_to(person, f"wamid.{person}.{number}", noon) for number in range(600)]
        await asyncio.gather(*map(store.record_sent, sent))
        await store.receive([read_by(person, f"wamid.{person}.0", noon)])
        await store.receive([read_by(person, "wamid.of-another-application", noon)])
    await store.close()
    (script,) = (
        each for each in blocks("docs/operating.md", "sql") if "wats_message_index" in each
    )

    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
        left = [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("wats_messages", "wats_statuses", "wats_early_statuses")
        ]
        indexed = "SELECT count(*) FROM wats_message_index WHERE row_id <= 600"
        assert connection.execute(indexed).fetchone() == (0,)

    await store.open()
    assert left == [600, 1, 1]
    assert await store.get_message("wamid.15550001234.0") is None
    assert await store.get_message("wamid.15550009999.0") is not None
    await store.record_sent(sent_to("15550001234", "wamid.15550001234.0", noon))
    assert await store.get_message("wamid.15550001234.0") is not None
    await store.close()


def sent_to(person: str, wa_message_id: str, at: datetime) -> MessageRecord:
    return MessageRecord(
        phone_number_id="1",
        wa_message_id=wa_message_id,
        direction=Direction.OUTBOUND,
        to_phone=person,
        type="text",
        status="accepted",
        created_at=at,
        updated_at=at,
    )


def read_by(person: str, wa_message_id: str, at: datetime) -> Arrival:
    return Arrival(
        key=f"{person} {wa_message_id}".encode(),
        occurred_at=at,
        received_at=at,
        kind="status",
        phone_number_id="1",
        lane=1,
        payload=b"{}",
        status=StatusRecord(
            phone_number_id="1",
            wa_message_id=wa_message_id,
            status="read",
            participant=person,
            occurred_at=at,
        ),
    )


def ending(delivery: Delivery, state: DeliveryState) -> Settlement:
    return Settlement(
        delivery=delivery,
        state=state,
    )


async def test_a_dead_letter_is_discarded_as_it_is_shown_and_others_are_not(tmp_path: Path) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    update = Arrival(
        key=bytes(16),
        occurred_at=long_ago,
        received_at=long_ago,
        kind="message",
        phone_number_id=None,
        lane=1,
        payload=b"{}",
        targets=("one", "other"),
        lease_seconds=60.0,
    )
    store = open_store(f"sqlite:///{tmp_path / 'wats.db'}")
    await store.open()
    (kept,) = await store.receive([update])
    assert kept is not None
    one, other = kept.leased
    await store.settle_deliveries([ending(one, DeliveryState.DEAD)], now=long_ago)
    await store.close()

    with contextlib.closing(sqlite3.connect(tmp_path / "wats.db")) as connection:
        connection.executescript(blocks("docs/operating.md", "sql")[-1])

    await store.open()
    depth = await store.inbox_depth()
    settled = await store.settle_deliveries([ending(other, DeliveryState.DONE)], now=long_ago)
    await store.close()
    assert (depth.dead, depth.leased) == (0, 1)
    assert settled.done == (other.update_id,)  # nobody is counted as waiting for it any more


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder with the examples, each in the file that its first line names."""
    names = lay_out(tmp_path)
    for key, value in SECRETS.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)


async def post_webhook(url: str) -> None:
    headers = {"x-hub-signature-256": sign(WEBHOOK)}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=WEBHOOK, headers=headers) as answer,
    ):
        assert await answer.json() == {
            "status": "ok",
            "received": 1,
            "dispatched": 1,
            "skipped": 0,
        }


async def printed(capsys: pytest.CaptureFixture[str], *wanted: str) -> None:
    seen = ""
    async with asyncio.timeout(10):
        while not all(line in seen.splitlines() for line in wanted):
            await asyncio.sleep(0.01)
            seen += capsys.readouterr().out


async def test_the_service_of_the_readme_calls_its_handler(examples: Path) -> None:
    command = blocks("README.md", "sh")[-1].splitlines()[0].split()[1:]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wats", *command, "--port", "0"),
        cwd=examples,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    ready = json.loads(await process.stdout.readline())

    await post_webhook(ready["url"] + "/webhooks/whatsapp")

    assert await process.stdout.readline() == b"message\n"
    process.terminate()
    assert await process.wait() == 0


def test_the_secrets_of_the_readme_are_those_of_its_config(tmp_path: Path) -> None:
    script = next(each for each in blocks("README.md", "sh") if "secrets" in each)

    subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True)

    lines = (tmp_path / ".env").read_text().splitlines()
    assert {line.partition("=")[0] for line in lines} == set(SECRETS)


async def test_the_application_of_the_readme_calls_its_handlers(
    examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(load(examples / "gateway.py").app) as url:
        await post_webhook(url + "/webhooks/whatsapp")

        await printed(capsys, "message", "text")


async def test_the_gateway_can_be_mounted_as_it_is_shown(
    examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(load(examples / "website.py").website) as url:
        await post_webhook(url + "/whatsapp/webhooks/whatsapp")

        await printed(capsys, "message")


async def test_a_handler_is_tested_with_an_update_as_it_is_shown(
    examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await load(examples / "test_shop.py").test_a_text_is_measured(capsys)


async def test_a_handler_is_tested_with_a_fake_meta_as_it_is_shown(
    examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(20):
        await load(examples / "test_answers.py").test_a_customer_gets_an_answer(monkeypatch)


async def test_the_sink_that_is_shown_counts_what_graph_did_not_take(examples: Path) -> None:
    sink = load(examples / "sink.py").FailedSends()
    app = create_wats_service_app(
        profile=example_profile(), secrets=example_secrets(), telemetry_sink=sink
    )
    headers = {"authorization": f"Bearer {BEARER_TOKEN}"}

    async with serving(app) as url, aiohttp.ClientSession(url, headers=headers) as session:
        body = {"to": "15550001234", "text": "Hi"}
        async with session.post("/api/messages/text", json=body) as answer:
            assert answer.status == 502

    assert sink.count == 1
