import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

pytestmark = pytest.mark.long

PATIENCE_SECONDS = 60.0
OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


def command(service, *arguments: str) -> list[str]:
    words = ["status", "--url", service.url, "--config", str(service.config), *arguments]
    return [sys.executable, "-m", "wats", *words]


def test_a_service_is_shown_once(service) -> None:
    result = service.ask("status", "--url", service.url)

    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert re.fullmatch(r"wats \S+ · Graph v25\.0 · up \d+ .* · webhook\+persistence", lines[0])
    assert re.fullmatch(re.escape(f"{service.url} · sqlite ok, schema ") + r"\d+", lines[1])
    assert re.search(r"^Requests +total +4xx +5xx +p50 +p99$", result.out, re.MULTILINE)
    assert re.search(r"^Also    workers 1  rejected webhooks \d", result.out, re.MULTILINE)
    assert result.out.endswith("\n")
    assert not result.out.endswith("\n\n")
    assert "\x1b" not in result.out


def test_the_status_of_a_service_is_printed_as_json(service) -> None:
    result = service.ask("status", "--json", "--url", service.url)

    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert (found["service"], found["serviceMode"]) == ("wats", "webhook+persistence")
    assert found["inbox"].keys() >= {"pending", "dead"}


def test_for_json_only_the_status_is_requested(service, counterfeit) -> None:
    status = service.ask("status", "--json", "--url", service.url).out
    counterfeit.answers["/status"] = (200, {}, status.encode())

    result = service.ask("status", "--json", "--url", counterfeit.url)

    assert (result.code, result.out) == (0, status)
    assert [path for _, path, _ in counterfeit.asked] == ["/status"]


def test_json_cannot_be_watched(service) -> None:
    result = service.ask("status", "--json", "--watch", "--url", service.url)

    assert (result.code, result.out) == (1, "")
    assert result.err.endswith("Error: Use either --watch or --json.\n")


@pytest.mark.parametrize("columns", ["0", "1", "40"])
def test_no_variable_causes_color_in_a_pipe_or_a_failure(service, monkeypatch, columns) -> None:
    for name, value in {
        "COLUMNS": columns,
        "FORCE_COLOR": "1",
        "TTY_COMPATIBLE": "1",
        "TTY_INTERACTIVE": "1",
        "COLORTERM": "truecolor",
        "TERM": "xterm",
    }.items():
        monkeypatch.setenv(name, value)

    result = service.ask("status", "--url", service.url)

    assert (result.code, result.err) == (0, "")
    assert "\x1b" not in result.out
    assert max(map(len, result.out.splitlines())) <= (int(columns) or 80)


def test_a_wrong_token_is_reported(service) -> None:
    result = service.ask("status", "--url", service.url, "--token-env", "WATS_VERIFY_TOKEN")

    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"Error: {service.url} responds with 404: invalid token, or not a wats service.\n"
    )


@pytest.mark.parametrize("options", [[], ["--watch"]])
def test_a_service_is_not_watched_without_a_valid_token(service, counterfeit, options) -> None:
    result = service.ask("status", "--url", counterfeit.url, *options)

    assert result.code == 1
    assert "not a wats service" in result.err


def test_a_server_other_than_wats_is_reported(service, counterfeit) -> None:
    counterfeit.answers = dict.fromkeys(("/status", "/metrics"), (200, {}, b"<html>"))

    result = service.ask("status", "--url", counterfeit.url)

    assert (result.code, result.out) == (1, "")
    assert "not from wats" in result.err


def test_a_service_that_fails_is_reported(service, counterfeit) -> None:
    counterfeit.answers["/status"] = (502, {}, b"")

    assert "responds with 502" in service.ask("status", "--url", counterfeit.url).err


def test_into_a_pipe_frames_are_written_one_after_the_other(service) -> None:
    with subprocess.Popen(
        command(service, "--watch", "--interval", "0.1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=service.environ,
        text=True,
    ) as process:
        assert process.stdout is not None
        heads = 0
        seen = ""
        while heads < 3:
            line = process.stdout.readline()
            assert line, seen
            heads += line.startswith("wats ")
            seen += line
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE_SECONDS)

    assert (process.returncode, errors) == (0, "")
    assert "\x1b" not in seen + rest
    assert "per s" in seen
    assert "Ctrl-C ends\n\nwats " in seen


@dataclass
class Terminal:
    """The other side of a terminal that a command runs in."""

    process: "subprocess.Popen[bytes]"
    side: int
    seen: str = ""

    def until(self, pattern: str) -> str:
        """Read until *pattern* is in the output since the last call; return that output."""
        ends_at = time.monotonic() + PATIENCE_SECONDS
        came = ""
        while re.search(pattern, came) is None:
            assert time.monotonic() < ends_at, came
            if select.select([self.side], [], [], 0.05)[0]:
                try:
                    came += os.read(self.side, 65536).decode()
                except OSError:  # the command has left its terminal
                    assert re.search(pattern, came), came
        self.seen += came
        return came

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.side, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit code."""
        os.write(self.side, b"\x03")
        self.until(r"\x1b\[\?1049l(.|\n)*every 0.1 s")
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def terminal(words: list[str], environ: Mapping[str, str]) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    sizes = {"COLUMNS", "LINES", "NO_COLOR"}
    clean = {name: value for name, value in environ.items() if name not in sizes}
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_TERMINAL, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**clean, "TERM": "xterm", "PYTHONUTF8": "1"},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)


def test_in_a_terminal_a_frame_replaces_the_last_one(service) -> None:
    words = command(service, "--watch", "--interval", "0.1")
    with terminal(words, service.environ) as shown:
        first = shown.until(r"Ctrl-C ends")
        assert first.index(ENTER) < first.index("\x1b[H")
        for _ in range(2):
            frame = shown.until(r"\x1b\[H(.|\n)*\x1b\[H")
            assert ENTER not in frame
        shown.resize(8, 60)
        small = shown.until(r"\x1b\[H([^\n]*\n){7}[^\n]*\x1b\[H")
        code = shown.interrupt()

    assert code == 0
    last = small.split("\x1b[H")[-2]
    plain = re.sub(r"\x1b\[[0-9;]*m", "", last).split("\r\n")
    assert [len(line) for line in plain] == [60] * 8
    # The screen is as it was before, followed by the last frame.
    after = shown.seen.split(LEAVE)[-1]
    assert "Requests" in after
    assert "Traceback" not in shown.seen
    assert shown.seen.count(ENTER) == shown.seen.count(LEAVE) == 1


def test_without_colors_there_are_none(service) -> None:
    words = command(service, "--watch", "--interval", "0.1")
    with terminal(words, service.environ) as colored:
        assert "\x1b[1m" in colored.until(r"Ctrl-C ends")
    env = {**service.environ}
    with terminal(["env", "NO_COLOR=1", *words], env) as plain:
        seen = plain.until(r"Ctrl-C ends")

    assert re.findall(r"\x1b\[[0-9;]*m", seen) == []


def test_a_plain_terminal_gets_plain_frames(service) -> None:
    words = ["env", "TERM=dumb", "PYTHONIOENCODING=ascii"]
    watch = command(service, "--watch", "--interval", "0.1")
    with terminal([*words, *watch], service.environ) as shown:
        seen = shown.until(r"Ctrl-C ends\s+wats ")
        os.write(shown.side, b"\x03")
        assert shown.process.wait(PATIENCE_SECONDS) == 0

    assert "\x1b" not in seen
    assert seen.isascii()
    assert " | Graph v25.0 | " in seen


def test_a_service_that_restarts_is_waited_for(service, counterfeit) -> None:
    result = service.ask("support-bundle", "--url", service.url)
    assert result.code == 0
    words = [*command(service, "--watch", "--interval", "0.1")]
    words[words.index(service.url)] = counterfeit.url
    counterfeit.answers["/status"] = (503, {}, b"")
    with terminal(words, service.environ) as shown:
        shown.until(r"responds with 503")
        counterfeit.answers = {
            "/status": (200, {}, _status()),
            "/metrics": (200, {}, b'http_requests_total{route="/webhook"} 7\n'),
        }
        assert "/webhook" in shown.until(r"up 5 s(.|\n)*Ctrl-C ends")
        counterfeit.answers["/status"] = (404, {}, b"")
        away = shown.until(r"For \d+ s: (.|\n)*Ctrl-C ends")
        assert "/webhook" in away
        assert shown.interrupt() == 0


def _status() -> bytes:
    return (
        b'{"service":"wats","version":"1.0.0","uptimeSeconds":5,"graphApiVersion":"v25.0",'
        b'"serviceMode":"webhook","routes":[],"featureFlags":{"groupRoutes":false,'
        b'"persistence":false},"persistence":null}'
    )


def test_a_signal_to_end_leaves_the_terminal_as_it_was(service) -> None:
    with terminal(command(service, "--watch"), service.environ) as shown:
        shown.until(r"Ctrl-C ends")
        shown.process.send_signal(signal.SIGTERM)
        shown.until(r"\x1b\[\?1049l(.|\n)*Ctrl-C ends")
        assert shown.process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.parametrize("interval", ["0", "-1", "0.01", "soon"])
def test_an_interval_has_bounds(service, interval) -> None:
    assert service.ask("status", "--url", service.url, "--watch", "--interval", interval).code == 1
