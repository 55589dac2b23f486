"""docs/libraries.md: the client of pywa in the process.

The other example is run by `tests/acceptance/test_libraries.py`, behind a gateway.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from pywa_async.errors import ReEngagementMessage

from tests.pages import blocks, load
from wats import Update, create_wats_service_app, open_store
from wats.privacy import Secret
from wats.simulator import Simulator, SimulatorSettings
from wats.testing import (
    APP_SECRET,
    BEARER_TOKEN,
    VERIFY_TOKEN,
    example_profile,
    example_secrets,
    serving,
    sign,
)

PNG = b"\x89PNG\r\n\x1a\n"
CONTACT = {"profile": {"name": "Ada"}, "wa_id": "15550001234", "user_id": "US.1"}
FROM = {"from": "15550001234", "from_user_id": "US.1", "timestamp": "1790000000"}
TEXT = {**FROM, "id": "wamid.1", "type": "text", "text": {"body": "Hi"}}
REPLY = {"type": "button_reply", "button_reply": {"id": "yes", "title": "Yes"}}
QUOTED = {"from": "15551234567", "id": "wamid.0"}
TAP = {**FROM, "id": "wamid.2", "type": "interactive", "interactive": REPLY, "context": QUOTED}
FAILED = {
    "id": "wamid.3",
    "status": "failed",
    "timestamp": "1790000000",
    "recipient_id": "15550001234",
    "recipient_user_id": "US.1",
    "errors": [{"code": 131047, "title": "Re-engagement message", "message": "Re-engagement"}],
}
METADATA = {"display_phone_number": "15550009999", "phone_number_id": "15551234567"}


def webhook(**items: Any) -> bytes:
    value = {"messaging_product": "whatsapp", "metadata": METADATA, **items}
    entry = {"id": "123456789012345", "changes": [{"field": "messages", "value": value}]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


async def test_the_client_of_pywa_that_is_shown_replies_through_wats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = blocks("docs/libraries.md", "python")
    (tmp_path / "bot.py").write_text(example)
    monkeypatch.setenv("WATS_SERVICE_BEARER_TOKEN", BEARER_TOKEN)
    settings = SimulatorSettings(
        app_secret=Secret(APP_SECRET),
        verify_token=Secret(VERIFY_TOKEN),
        phone_number_id="15551234567",
    )
    async with Simulator(settings) as meta, ClientSession() as session:
        bots: list[Any] = []

        async def on_update(update: Update) -> None:
            await bots[0].on_update(update)

        app = create_wats_service_app(
            profile=example_profile(graph_url=meta.url),
            secrets=example_secrets(),
            persistence=open_store("sqlite:///:memory:"),
            handlers=[on_update],
        )
        async with serving(app) as url:
            monkeypatch.setenv("WATS_URL", url)
            bots.append(bot := load(tmp_path / "bot.py"))
            for body in (
                webhook(messages=[TEXT], contacts=[CONTACT]),
                webhook(messages=[TAP], contacts=[CONTACT]),
                webhook(statuses=[FAILED]),
            ):
                headers = {"x-hub-signature-256": sign(body)}
                hook = f"{url}/webhooks/whatsapp"
                async with session.post(hook, data=body, headers=headers) as answer:
                    assert answer.status == 200
            printed = ""
            async with asyncio.timeout(60):
                while "not delivered" not in printed:
                    await asyncio.sleep(0.01)
                    printed += capsys.readouterr().out
            with pytest.raises(ReEngagementMessage):
                await bot.client.send_message("19990131047", "Hi")
            await bot.client.send_image("15550001234", PNG, mime_type="image/png")
        await bot.session.aclose()

    texts = [message.payload["text"]["body"] for message in meta.accepted[:2]]
    assert texts == ["You wrote: Hi", "You chose: Yes"]
    assert [message.payload["type"] for message in meta.accepted[2:]] == ["image"]
