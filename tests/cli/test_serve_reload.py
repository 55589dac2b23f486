import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_serve import fetch
from tests.cli.test_serve_options import free_port, greeting_of
from tests.commands import Commands, Running
from tests.pages import PAGES

pytestmark = pytest.mark.long  # it starts many processes

HANDLER = """
async def on_update(update):
    print("{}", flush=True)
"""
SHOWN = "wats serve --sandbox --handler orders:on_update --reload"
"""The command of docs/operating.md."""

SERVE = (*SHOWN.split(" ")[1:], "--port", "0")


@pytest.fixture
def handler(wats: Commands) -> Path:
    path = wats.folder / "orders.py"
    path.write_text(HANDLER.format("first"))
    return path


def next_ready(running: Running) -> dict[str, Any]:
    assert running.process.stdout is not None
    ready: dict[str, Any] = json.loads(running.process.stdout.readline())
    return ready


def read_until(running: Running, text: str) -> str:
    assert running.process.stderr is not None
    read = ""
    while text not in read:
        line = running.process.stderr.readline()
        assert line, read
        read += line
    return read


def wait_for_end(pid: int) -> None:
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()


def test_a_change_of_a_handler_restarts_the_service_in_a_new_process(wats, handler) -> None:
    assert f"```sh\n{SHOWN}\n```" in PAGES["docs/operating.md"]
    with wats.running(*SERVE) as reloader:
        first = reloader.ready
        assert first["pid"] != reloader.process.pid
        handler.write_text(HANDLER.format("the second"))
        second = next_ready(reloader)
        ended = reloader.end()

    assert second["pid"] not in {first["pid"], reloader.process.pid}
    assert ended.code == 0
    assert "Traceback" not in ended.err
    assert "A file has changed; the service is restarted." in ended.err
    wait_for_end(second["pid"])


def test_a_service_with_a_mistake_is_started_again_after_its_correction(wats, handler) -> None:
    with wats.running(*SERVE) as reloader:
        handler.write_text("async def on_update(update:\n")
        shown = read_until(reloader, "it is started again when a file changes.")
        handler.write_text(HANDLER.format("corrected"))
        next_ready(reloader)
        assert reloader.end().code == 0

    assert f"syntax error in '{handler}', line 1." in shown


def test_a_restarted_sandbox_keeps_its_token_and_the_address_of_its_fake_meta(
    wats, handler
) -> None:
    with wats.running(*SERVE) as reloader:
        before = greeting_of(reloader)
        handler.write_text(HANDLER.format("the second"))
        next_ready(reloader)
        after = greeting_of(reloader)
        assert fetch(f"{after[1]}/_simulator/state")[0] == 200
        assert reloader.end().code == 0

    assert after == before


def test_a_restarted_sandbox_prints_its_instructions_once(wats, handler) -> None:
    port = str(free_port())
    with wats.running(*SERVE[:-1], port) as reloader:
        handler.write_text(HANDLER.format("the second"))
        next_ready(reloader)
        shown = reloader.end().err

    assert shown.count("Stop the sandbox with") == 1
    again = f"The sandbox is running again at http://127.0.0.1:{port}, with the same TOKEN"
    assert again in shown


def test_a_service_ends_with_its_reloader(wats, handler) -> None:
    with wats.running(*SERVE) as reloader:
        os.kill(reloader.process.pid, signal.SIGKILL)
        reloader.process.wait()

        wait_for_end(reloader.ready["pid"])


def test_a_change_of_the_config_and_of_its_handlers_restarts_the_service(wats, handler) -> None:
    wats.write(handlers=["orders:on_update"])

    with wats.running("serve", "--config", str(wats.config), "--port", "0", "--reload") as reloader:
        handler.write_text(HANDLER.format("the second"))
        next_ready(reloader)
        wats.write(handlers=[])
        next_ready(reloader)
        assert reloader.end().code == 0


def test_a_service_with_several_workers_is_not_reloaded(wats) -> None:
    result = wats.invoke("serve", "--config", str(wats.config), "--reload", "--workers", "2")

    assert result.code == 1
    assert "With --reload, the service runs in one process." in result.err
