import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

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
    """How a command ended, and what it wrote."""

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
        profile = {
            "graph": {"apiVersion": "v25.0", "baseUrl": "http://127.0.0.1:9"},
            "whatsapp": {"wabaId": "123456789012345", "phoneNumberId": "15551234567"},
            "auth": {"accessToken": {"env": "WATS_ACCESS_TOKEN"}},
            "webhook": {
                "path": "/webhooks/whatsapp",
                "verifyToken": {"env": "WATS_VERIFY_TOKEN"},
                "appSecret": {"env": "WATS_APP_SECRET"},
            },
            "service": {
                "host": "127.0.0.1",
                "port": 8787,
                "apiPrefix": "/api",
                "bearerToken": {"env": "WATS_SERVICE_BEARER_TOKEN"},
            },
            **sections,
        }
        document = {"version": 1, "defaultProfile": "local", "profiles": {"local": profile}}
        self.config.write_text(json.dumps(document))

    def run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Ended:
        done = subprocess.run(
            self._command(arguments),
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
        told = CliRunner().invoke(main, arguments, env={**found, **(environ or {})})
        assert told.exception is None or isinstance(told.exception, SystemExit)
        return Ended(told.exit_code, told.stdout, told.stderr)

    @contextmanager
    def running(self, *arguments: str) -> Iterator["Running"]:
        """Run a command that says when it is ready, and end it after the block."""
        process = subprocess.Popen(
            self._command(arguments),
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
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
    def _command(arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "wats", *arguments]


@dataclass
class Running:
    """A command that is ready, with the line that said so."""

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
