"""docs/pullers.md: its config, its bodies, and the program that polls."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pages import blocks, load
from tests.settings import config_of
from tests.web.api.test_updates import BEARER, message, pulled_service
from tests.web.conftest import call
from wats.config import parse_config
from wats.store.records import Depth
from wats.testing import BEARER_TOKEN, serving

PAGE = "docs/pullers.md"


def members(value: Any) -> Any:
    """Return the members of *value*, without those of Meta's item."""
    if isinstance(value, dict):
        return {name: members(each) for name, each in value.items() if name != "raw"}
    return [members(each) for each in value] if isinstance(value, list) else None


def test_the_pullers_that_are_shown_are_valid() -> None:
    (text,) = blocks(PAGE, "yaml")

    profile = parse_config(config_of(**yaml.safe_load(text))).profiles["local"]

    assert [each.name for each in profile.pullers] == ["batch", "shop"]


async def test_the_acknowledgement_that_is_shown_is_accepted() -> None:
    _, shown = blocks(PAGE, "json")

    async with pulled_service() as service:
        answer = await call(service.app, "POST", "/api/updates/ack", BEARER, shown.encode())

    assert [each["result"] for each in answer.json["updates"]] == ["invalid_receipt"] * 2


async def test_the_program_that_is_shown_handles_and_retries_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, _ = blocks(PAGE, "json")
    (source,) = blocks(PAGE, "python")
    path = tmp_path / "poller.py"
    path.write_text(source)
    handled = []

    async def handle(update: dict[str, Any]) -> None:
        handled.append(update["raw"]["id"])
        if len(handled) == 1:
            raise RuntimeError

    async with pulled_service() as service, serving(service.app) as url:
        monkeypatch.setenv("WATS_URL", url)
        monkeypatch.setenv("WATS_SERVICE_BEARER_TOKEN", BEARER_TOKEN)
        program = load(path)
        monkeypatch.setattr(program, "handle", handle)
        await service.receive(message(1))
        await program.run(1)
        service.clock.advance(1)
        await service.receive(message(2, "15550000002"))
        (pulled,) = await service.pull("consumer=batch&wait=0&limit=1")
        await service.ack({"receipt": pulled["receipt"], "retry": 0})
        service.clock.advance(1)
        await program.run(1)
        depth = await service.depth()

    assert sorted(handled) == ["wamid.1", "wamid.1", "wamid.2"]
    assert depth == Depth()
    assert members(json.loads(shown))["updates"] == members([pulled])
