import asyncio
import os
import shutil
from pathlib import Path

import pytest

from tests.acceptance.conftest import OpenGateway
from tests.settings import NUMBER_ID
from wats.testing import BEARER_TOKEN, example_secrets

NODE = Path(__file__).parent / "node"


async def results_of_sends(graph_url: str, token: str) -> list[str]:
    """Send every type of message, and return a line for each with its number of ids."""
    environ = {
        "PATH": os.environ["PATH"],
        "GRAPH_URL": graph_url,
        "GRAPH_TOKEN": token,
        "NUMBER_ID": NUMBER_ID,
    }
    process = await asyncio.create_subprocess_exec(
        "node", "messages.mjs", cwd=NODE, env=environ, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode().splitlines()


@pytest.mark.long
@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").is_dir(),
    reason="needs node, and: npm ci --prefix tests/acceptance/node",
)
async def test_every_message_of_whatsapp_api_js_is_the_same_through_wats(
    open_gateway: OpenGateway,
) -> None:
    access_token = example_secrets().access_token.reveal()
    async with open_gateway() as gateway:
        direct = await results_of_sends(gateway.simulator.url, access_token)
        through = await results_of_sends(f"{gateway.url}/api/graph", BEARER_TOKEN)

        payloads = [message.payload for message in gateway.simulator.accepted]

    assert len(direct) == 22
    assert all(line.endswith(" 1") for line in direct)
    assert through == direct
    assert payloads[22:] == payloads[:22]
