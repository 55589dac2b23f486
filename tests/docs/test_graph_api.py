import asyncio
import json
from typing import Any, Final

import pytest

from tests.acceptance.conftest import running_gateway
from tests.pages import PAGES, blocks_of
from tests.settings import NUMBER_ID
from wats.testing import BEARER_TOKEN

PAGE: Final = "docs/graph-api.md"


def block(language: str) -> str:
    (found,) = [each for each in blocks_of(PAGES[PAGE]) if each.language == language]
    return found.text


@pytest.fixture
async def gateway(tmp_path: Any) -> Any:
    async with running_gateway(tmp_path) as running:
        yield running


async def test_the_client_that_is_shown_sends_through_wats(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", BEARER_TOKEN)
    source = block("python").replace("http://127.0.0.1:8787", gateway.url)
    names: dict[str, Any] = {}

    await asyncio.to_thread(exec, source, names)

    names["session"].close()
    (sent,) = gateway.simulator.accepted
    assert sent.payload["text"]["body"] == "Hello"


async def test_the_error_that_is_shown_is_that_of_a_closed_window(gateway: Any) -> None:
    message = {"messaging_product": "whatsapp", "type": "text", "text": {"body": "Hello"}}
    path = f"/api/graph/v25.0/{NUMBER_ID}/messages"

    answer = await gateway.ask("POST", path, {"to": "19990131047", **message})

    found = answer.json
    for each in (found["error"].pop("fbtrace_id"), found["error"]["wats"].pop("fbtraceId")):
        assert isinstance(each, str)
    assert found == json.loads(block("json"))
