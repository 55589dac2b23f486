"""The documentation matches the code, in both directions."""

import asyncio
import json
import re
import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
from wats import Update, UpdateKind, create_wats_service_app, open_store
from wats.clock import EPOCH
from wats.config import config_keys, parse_config
from wats.inbound.normalize import normalize
from wats.privacy import Secret
from wats.simulator import Simulator, SimulatorSettings
from wats.telemetry.contract.families import FAMILIES
from wats.testing import (
    APP_SECRET,
    BEARER_TOKEN,
    VERIFY_TOKEN,
    example_profile,
    example_secrets,
    recorded_replies,
    serving,
    sign,
)
from wats.web.parts import HOOK_LABEL
from wats.web.table import route_table

MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
NO_KEYS = {"service.py", "service.instance"}
"""Names that resemble config keys: a module, and the beginning of an attribute."""

generate = load(ROOT / "docs/generate.py")


def shell_lines(page: str) -> list[str]:
    commands = [line for block in blocks(page, "sh") for line in commands_in(block)]
    return [line.strip() for line in (*commands, *spans(PAGES[page]))]


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("path", generate.PAGES, ids=lambda path: path.stem)
def test_generated_blocks_are_fresh(path: Path) -> None:
    page = path.read_text("utf-8")

    assert generate.render(page) == page, "Run .venv/bin/python docs/generate.py."


def test_every_generated_block_is_on_one_page() -> None:
    marks = re.findall("<!-- ([a-z-]+): begin -->", "".join(PAGES.values()))

    assert sorted(marks) == sorted(generate.BLOCKS)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_has_a_target(page: str) -> None:
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

    planned = "src/wats/store/migrations/sqlite/0002_add_a_column.sql"
    assert [path for path in paths if path != planned and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "docs/design.md"])
def test_every_path_in_the_package_exists(page: str) -> None:
    paths = [
        each for each in spans(PAGES[page]) if re.fullmatch(r"[a-z_]+(/[a-z_]*)*(/|\.py)", each)
    ]

    package = ROOT / "src/wats"
    missing = [each for each in paths if not (ROOT / each).exists()]
    assert paths
    assert [each for each in missing if not list(package.rglob(each))] == []


def test_the_architecture_has_at_most_fifteen_concepts() -> None:
    table = PAGES["ARCHITECTURE.md"].partition("| Concept |")[2].partition("\n\n")[0]

    assert 10 < len(table.splitlines()) - 2 <= 15


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_is_named_exists(page: str) -> None:
    named = {line.split()[1] for line in shell_lines(page) if re.match(r"make [a-z]", line)}

    assert named <= set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))


def test_every_make_target_is_documented() -> None:
    targets = re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE)

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
    keys |= {key.rpartition(".")[0] for key in keys}
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


CONCEPTS = (
    *("liveness", "readiness", "latency", "rate limit", "dead letter"),
    *("retry", "backoff", "idempotency", "redelivery"),
)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_concept_is_found_by_its_usual_name(concept: str) -> None:
    assert concept in PAGES["docs/index.md"].lower()
    assert any(
        concept in text.lower()
        for page, text in PAGES.items()
        if page.startswith("docs/") and page not in {"docs/index.md", "docs/benchmarks.md"}
    )


def test_every_error_code_is_documented_and_no_other() -> None:
    page = PAGES["docs/errors.md"]
    codes = {*generate.answered_codes(), *generate.raised_at_start()}

    assert {*generate.HTTP_MEANINGS, *generate.START_MEANINGS} == codes
    assert [code for code in codes if f"| `{code}` |" not in page] == []


def test_every_route_is_documented() -> None:
    page = PAGES["docs/http-api.md"]

    for row in route_table(example_profile(), groups_enabled=True):
        path = row.path.replace("/api/", "P/").replace("*", ":")
        path = "HOOK" if row.label == HOOK_LABEL else path
        for operation in row.operations:
            assert f"| {operation.method.value} | `{path}` |" in page


def test_every_event_of_the_log_is_documented_and_no_other() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src/wats").rglob("*.py"))
    events = re.findall(
        r'(?:"event": |failures\(|FailureLog\(|announce\()"(wats\.[a-z.]+)"', source
    )
    documented = re.findall(r"^\| `(wats\.[a-z.]+)` \|", PAGES["docs/operating.md"], re.MULTILINE)

    assert set(documented) == {each for each in events if each != "wats.ready"}


GRAPH = "http://127.0.0.1:9900"
"""The address of the fake Meta in the README's config."""


@pytest.fixture
async def meta() -> AsyncIterator[Simulator]:
    settings = SimulatorSettings(
        app_secret=Secret(APP_SECRET),
        verify_token=Secret(VERIFY_TOKEN),
        phone_number_id="15551234567",
    )
    async with Simulator(settings) as meta:
        yield meta


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meta: Simulator) -> Iterator[Path]:
    """Return a folder with the examples, each in the file that its first line names."""
    names = lay_out(tmp_path)
    config = tmp_path / "wats.config.yaml"
    config.write_text(config.read_text().replace(GRAPH, meta.url))
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


async def replied(meta: Simulator, *wanted: object) -> None:
    """Wait until the fake Meta has accepted the texts *wanted*, in any order."""
    async with asyncio.timeout(60):
        while len(meta.accepted) < len(wanted):
            await asyncio.sleep(0.01)
    texts: list[Any] = [message.payload["text"] for message in meta.accepted]
    assert sorted(text["body"] for text in texts) == sorted(wanted)


@pytest.mark.long  # it runs mypy
async def test_the_handlers_of_the_documentation_have_valid_types(examples: Path) -> None:
    names = ("orders", "gateway", "shop", "triage", "replies", "notify", "support", "watch")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache"),
        *(f"{name}.py" for name in names),
        cwd=examples,
        stdout=asyncio.subprocess.PIPE,
    )

    out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()


async def test_the_application_of_the_readme_calls_its_handlers(
    examples: Path, meta: Simulator
) -> None:
    async with serving(load(examples / "gateway.py").app) as url:
        await post_webhook(url + "/webhooks/whatsapp")

        await replied(meta, "You wrote: Hi", "Thank you!")


async def test_the_gateway_can_be_mounted_as_it_is_shown(examples: Path, meta: Simulator) -> None:
    async with serving(load(examples / "website.py").website) as url:
        await post_webhook(url + "/whatsapp/webhooks/whatsapp")

        await replied(meta, "You wrote: Hi")


async def test_a_handler_replies_as_it_is_shown(examples: Path, meta: Simulator) -> None:
    handlers = [load(examples / f"{name}.py").on_update for name in ("triage", "replies")]
    notify = load(examples / "notify.py").order_is_ready
    app = create_wats_service_app(
        profile=example_profile(graph_url=meta.url),
        secrets=example_secrets(),
        persistence=open_store("sqlite:///:memory:"),
        handlers=handlers,
    )

    async with serving(app) as url:
        await post_webhook(url + "/webhooks/whatsapp")
        await notify(app, "15550001234", "7")
        async with asyncio.timeout(60):
            while len(meta.accepted) < 5:
                await asyncio.sleep(0.01)

    types = sorted(str(message.payload["type"]) for message in meta.accepted)
    assert types == ["image", "template", "template", "text", "text"]
    assert meta.counts.read_marks == 1


async def test_the_handlers_that_are_shown_accept_every_update(examples: Path, subtests) -> None:
    names = ("shop", "triage", "replies", "watch")
    handlers = {name: load(examples / f"{name}.py").on_update for name in names}
    bodies = [json.loads(line)["body"] for line in generate.CORPUS.read_text().splitlines()]
    updates = [each for body in bodies for each in normalize(body, received_at=EPOCH).updates]

    for name, handler in handlers.items():
        for kind in UpdateKind:
            with subtests.test(handler=name, kind=kind), recorded_replies():
                for update in updates:
                    if update.kind is kind:
                        await handler(update)


async def test_a_handler_selects_updates_as_it_is_shown(
    examples: Path, meta: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_wats_service_app(
        profile=example_profile(graph_url=meta.url),
        secrets=example_secrets(),
        persistence=open_store("sqlite:///:memory:"),
    )
    load(examples / "support.py").register(app)

    async with serving(app) as url:
        await post_webhook(url + "/webhooks/whatsapp")
        await replied(meta, "We got: Hi")

    assert "2 characters" in capsys.readouterr().out


async def test_a_handler_reads_the_content_of_an_update_as_it_is_shown(
    examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = {"event": "PAUSED", "message_template_name": "order_ready"}
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    update = Update(
        key="0" * 32,
        kind=UpdateKind.TEMPLATE,
        field="message_template_status_update",
        waba_id="1",
        occurred_at=noon,
        received_at=noon,
        raw=raw,
    )

    await load(examples / "watch.py").on_update(update)

    assert capsys.readouterr().out == "template: order_ready\n"


async def test_a_handler_is_tested_with_an_update_as_it_is_shown(examples: Path) -> None:
    await asyncio.to_thread(load(examples / "test_shop.py").test_a_text_is_measured)


async def test_a_handler_is_tested_with_a_fake_meta_as_it_is_shown(examples: Path) -> None:
    async with asyncio.timeout(60):
        answered = await load(examples / "test_round_trip.py").answered_customers()

    assert answered == ["15550001234"]


async def test_the_documented_sink_counts_refused_messages(examples: Path) -> None:
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
