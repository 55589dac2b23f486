"""Without `--show`, a sandbox and its fake Meta keep messages out of their output."""

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from tests.privacy.canaries import Canaries
from tests.privacy.conftest import seen_in

MESSAGES = 200
GREETING_END = b"Stop the sandbox with"
HANDLER = "async def on_update(update):\n    raise ValueError(str(update.raw))\n"


async def _greeting(stream: asyncio.StreamReader) -> str:
    read = b""
    async with asyncio.timeout(30):
        while GREETING_END not in read:
            read += await stream.readline()
    return read.decode()


async def _post(session: aiohttp.ClientSession, url: str, body: object, **headers: str) -> None:
    async with session.post(url, data=json.dumps(body), headers=headers) as response:
        await response.read()


async def use_sandbox(folder: Path, canaries: Canaries) -> Mapping[str, str]:
    """Return the output of a sandbox with a failing handler, after messages in both directions."""
    (folder / "orders.py").write_text(HANDLER)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wats", "serve", "--sandbox", "--port", "0"),
        *("--handler", "orders:on_update"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    greeting = await _greeting(process.stderr)
    url = json.loads(await process.stdout.readline())["url"]
    (token,) = re.findall(r"TOKEN=(\S+)", greeting)
    (meta,) = re.findall(r"META=(\S+)", greeting)
    async with aiohttp.ClientSession() as session:
        for _ in range(MESSAGES):
            sender, text = canaries.number("sender"), canaries.word("text")
            inbound = {"from": sender, "text": text, "name": canaries.word("name")}
            await _post(session, f"{meta}/_simulator/inbound", inbound)
            sent = {"to": canaries.number("recipient"), "text": canaries.word("sent text")}
            authorization = {"authorization": f"Bearer {token}"}
            await _post(session, f"{url}/api/messages/text", sent, **authorization)
            await _post(session, f"{meta}/_simulator/{canaries.word('path')}", text)
    process.terminate()
    out, err = await process.communicate()
    return {"stdout": out.decode(), "stderr": err.decode()}


@pytest.mark.long
async def test_no_canary_is_in_the_output_of_a_sandbox(tmp_path: Path) -> None:
    canaries = Canaries()

    output = await use_sandbox(tmp_path, canaries)

    assert "wats.handler.failed" in output["stderr"]
    assert seen_in(output, canaries) == {}
