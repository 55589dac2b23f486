import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.settings import config_of
from wats.cli import main

SECRETS = {
    "WATS_ACCESS_TOKEN": "an-access-token-canary",
    "WATS_VERIFY_TOKEN": "a-verify-token-canary",
    "WATS_APP_SECRET": "an-app-secret-canary",
    "WATS_SERVICE_BEARER_TOKEN": "a-service-token-canary",
}
LONGEST_SECONDS = 60


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


class Commands:
    """Runs `wats` in processes of their own, in a folder with a config file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "wats.config.json"
        self.environ = {**os.environ, **SECRETS}
        self.write()

    def write(self, **sections: Any) -> None:
        """Write the config file; *sections* replace or add to those of its profile."""
        self.config.write_text(json.dumps(config_of(**sections)))

    def run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Ended:
        done = subprocess.run(
            self.command(arguments),
            cwd=self.folder,
            env=self.environ if environ is None else {**environ},
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def invoke(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Ended:
        """Run a command in this process, which is quicker."""
        found = dict.fromkeys(SECRETS) if environ is not None else SECRETS
        result = CliRunner().invoke(main, arguments, env={**found, **(environ or {})})
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return Ended(result.exit_code, result.stdout, result.stderr)

    @contextmanager
    def running(self, *arguments: str, group: bool = False) -> Iterator["Running"]:
        """Run a command that prints a line when it is ready, and end it after the block.

        With *group*, its processes form a process group, like those of a command in a terminal.
        """
        process = subprocess.Popen(
            self.command(arguments),
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=group,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                pytest.fail(process.communicate(timeout=LONGEST_SECONDS)[1])
            yield Running(process, line)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=LONGEST_SECONDS)

    @staticmethod
    def command(arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "wats", *arguments]


@dataclass
class Running:
    """A command that is ready, with the line that it printed."""

    process: "subprocess.Popen[str]"
    ready_line: str

    @property
    def ready(self) -> dict[str, Any]:
        ready: dict[str, Any] = json.loads(self.ready_line)
        return ready

    @property
    def url(self) -> str:
        url: str = self.ready["url"]
        return url

    def end(self, number: int = signal.SIGTERM) -> Ended:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=LONGEST_SECONDS)
        return Ended(self.process.returncode, out, err)


OpenCommand = Callable[..., AbstractContextManager[Running]]


@pytest.fixture
def wats(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


TELEMETRY_TOKEN = "a-telemetry-token-canary"


@dataclass(frozen=True)
class Service:
    """A gateway that runs, with a token for telemetry alone and all the families there are."""

    url: str
    config: Path
    token_file: Path
    environ: Mapping[str, str]

    def ask(self, command: str, *arguments: str) -> Ended:
        """Run a `wats` command in this process, with the service's config."""
        words = [command, *arguments, "--config", str(self.config)]
        result = CliRunner().invoke(main, words, env=SECRETS)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return Ended(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    commands = Commands(tmp_path_factory.mktemp("service"))
    token_file = commands.folder / "scraper"
    token_file.touch(mode=0o600)
    token_file.write_text(f"{TELEMETRY_TOKEN}\n")
    commands.write(telemetry={"families": "operator", "bearerToken": {"file": "scraper"}})
    with commands.running("serve", "--config", str(commands.config), "--port", "0") as running:
        yield Service(running.url, commands.config, token_file, commands.environ)


@dataclass
class Counterfeit:
    """A server on loopback with a response for each path, and one for all others."""

    answers: dict[str, tuple[int, Mapping[str, str], bytes]]
    asked: list[tuple[str, str, Mapping[str, str]]]
    url: str = ""
    everywhere: tuple[int, Mapping[str, str], bytes] = (404, {}, b"{}")

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.command, request.path, dict(request.headers.items())))
        status, headers, body = self.answers.get(request.path, self.everywhere)
        request.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(b"" if request.command == "HEAD" else body)


@pytest.fixture
def counterfeit() -> Iterator[Counterfeit]:
    """A server other than wats, or a faulty one, at the address of a service."""
    made = Counterfeit({}, [])

    class Handler(BaseHTTPRequestHandler):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return lambda: made.answer(self)
            raise AttributeError(name)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
