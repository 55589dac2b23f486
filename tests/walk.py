"""A reader of the documentation: a clean folder and environment, in which pages are followed.

    folder/desk   the working folder, with .venv as `make setup` leaves it
    folder/home   HOME, empty
    folder/bin    wats, python3, pip, and programs that stand for other machines

The environment has PATH and HOME only, apart from variables that forbid pip to use an index and
Python to buffer its output. Commands run as written, except for the texts of `places`: each port of
the pages is replaced by a free one, in commands and in files.
"""

import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from tests.pages import SECRETS, Block, blocks, blocks_of, commands_in

GATEWAY, META, COLLECTOR = "8787", "9900", "4318"
"""The ports of the pages."""

CONFIG = "wats.config.yaml"
SERVE = f"wats serve --config {CONFIG} --env-file wats.env"
LONGEST_SECONDS = 60
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SERVERS = re.compile(r"\b(?:wats|make) (serve|simulate)\b|\b(uvicorn) ")
_READY = re.compile(r'^\{"event": ?"wats\.ready".*\}$|Uvicorn running on', flags=re.MULTILINE)
_CHOICE = random.SystemRandom()  # pytest seeds the others, alike in all of its processes


class Said(NamedTuple):
    """A command, its exit code and its output."""

    command: str
    code: int
    out: str
    err: str


class Server:
    """A command that serves until it is stopped."""

    def __init__(self, command: list[str], name: str, folder: Path, **options: Any) -> None:
        self.name = name
        self._reloads = "--reload" in command[-1]
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(
                ["timeout", "300", *command],  # it ends also if the tests are killed
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                **options,
            )

    @property
    def out(self) -> str:
        """The output until now."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """The output for errors until now."""
        return self._err.read_text()

    def wait_until_ready(self) -> None:
        """Wait for the line that states that connections are accepted."""
        until = time.monotonic() + LONGEST_SECONDS
        while not _READY.search(self.out + self.err):
            assert self._process.poll() is None, self.err
            assert time.monotonic() < until, self.err
            time.sleep(0.02)

    def stop(self) -> None:
        """Interrupt the server, as Ctrl-C does, and require that it ends without an error."""
        if (line := re.search(r'^\{"event".*$', self.out, flags=re.MULTILINE)) is None:
            self.kill()
            return
        pid = json.loads(line[0])["pid"]
        os.kill(parent_of(pid) if self._reloads else pid, signal.SIGINT)
        assert self._process.wait(LONGEST_SECONDS) == 0, self.err

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(LONGEST_SECONDS)


class Reader:
    """Follows pages; a context that ends its servers."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder, self._bin, home = folder / "desk", folder / "bin", folder / "home"
        for each in (self.folder, self._bin, home):
            each.mkdir()
        self.places = {rf"\b{port}\b": str(free_port()) for port in (GATEWAY, META, COLLECTOR)}
        self.environ = {
            "PATH": f"{self._bin}:{SYSTEM_PATH}",
            "HOME": str(home),
            "PIP_NO_INDEX": "1",  # packages to install are there already, or it fails
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONUNBUFFERED": "1",  # as for a terminal
            **variables,
        }
        self.servers: dict[str, Server] = {}
        self._here, self._state = self.folder, folder / "state"
        self._assigned: dict[str, str] = {}
        self._exported: set[str] = set()
        (self.folder / ".venv").symlink_to(sys.prefix)
        (self._bin / "wats").symlink_to(Path(sys.prefix, "bin/wats"))
        self.shim("python3", f'exec {shlex.quote(sys.executable)} "$@"')
        self.shim("pip", f'exec {shlex.quote(sys.executable)} -m pip "$@"')

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            for name in list(self.servers) if exc is None else ():
                self.stop(name)
        finally:
            for server in self.servers.values():
                server.kill()

    def shim(self, name: str, script: str) -> None:
        """Put a program on the PATH, in front of others with its name."""
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def placed(self, text: str) -> str:
        """Return *text* of a page with the ports and folders of this reader."""
        for shown, real in self.places.items():
            text = re.sub(shown, real, text)
        return text

    @property
    def url(self) -> str:
        """The URL of the gateway of the pages."""
        return self.placed(f"http://127.0.0.1:{GATEWAY}")

    @property
    def meta_url(self) -> str:
        """The URL of the simulator of the pages."""
        return self.placed(f"http://127.0.0.1:{META}")

    def write(self, name: str, text: str) -> Path:
        """Write a file of a page."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.placed(text))
        return path

    def prepare(self) -> None:
        """Write the config of docs/configuration.md, with the simulator for Meta, and secrets."""
        self.write(CONFIG, blocks("docs/configuration.md", "yaml")[0])
        self.configure({"graph": {"baseUrl": self.meta_url}})
        self.write("wats.env", "".join(f"{name}={value}\n" for name, value in SECRETS.items()))

    def configure(self, shown: Mapping[str, Any]) -> None:
        """Put the part of a profile that a page has *shown* into the config."""
        config = yaml.safe_load((self.folder / CONFIG).read_text())
        profile = config["profiles"][config["defaultProfile"]]
        for section, keys in shown.items():
            profile.setdefault(section, {}).update(keys)
        self.write(CONFIG, yaml.safe_dump(config))

    def lay_out(self, block: Block) -> None:
        """Write the file of a block: as named by its first line, or the config or a part of it."""
        if block.name:
            self.write(block.name, block.text)
        elif block.text.startswith("version:"):
            self.write(CONFIG, block.text)
        elif block.language == "yaml":
            self.configure(yaml.safe_load(block.text))

    def run(self, command: str) -> Said:
        """Run a command to its end; the next one has its working folder and its variables."""
        done = subprocess.run(
            ["sh", "-euc", f"{self._remembering}\n{self._script(command)}"],
            cwd=self._here,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
        self._remember()
        return Said(command, done.returncode, done.stdout, done.stderr)

    def start(self, command: str) -> Server:
        """Run a command that serves, in place of an earlier one with its name."""
        named = SERVERS.search(command)
        assert named is not None
        name = named[1] or named[2]
        self.stop(name)
        script = self._script(self.on_free_port(command.rstrip("& ")))
        server = Server(
            ["sh", "-euc", script], name, self._bin.parent, cwd=self._here, env=self.environ
        )
        self.servers[name] = server
        server.wait_until_ready()
        for variables in re.findall(r"^ *(export .+)$", server.err, flags=re.MULTILINE):
            assert self.run(variables).code == 0  # it asks its reader to do so
        return server

    def on_free_port(self, command: str) -> str:
        """Return *command*, with the gateway's port of this reader if it runs a sandbox."""
        return command.replace("--sandbox", f"--sandbox --port {self.placed(GATEWAY)}")

    def stop(self, name: str) -> None:
        if name in self.servers:
            self.servers[name].stop()
            del self.servers[name]

    @contextmanager
    def serving(self, command: str) -> Iterator[Server]:
        """Run a command that serves until the end of the block."""
        server = self.start(command)
        yield server
        self.stop(server.name)

    def follow(self, text: str) -> Iterator[Said]:
        """Perform the steps of *text* in their order; yield each command that has ended."""
        for block in blocks_of(text):
            if block.language in ("yaml", "python", "dotenv"):
                self.lay_out(block)
            for command in commands_in(block.text) if block.language == "sh" else ():
                if SERVERS.search(command):
                    self.start(command)
                else:
                    yield self.run(command)

    def succeed(self, text: str) -> list[Said]:
        """Perform the steps of *text*, and require that each of them succeeds."""
        said = []
        for each in self.follow(text):
            assert each.code == 0, each
            said.append(each)
        return said

    def _script(self, command: str) -> str:
        placed = self.placed(command)
        names = re.findall(r"(?:^|[;&(]\s*|\bexport )(\w+)=", placed, flags=re.MULTILINE)
        self._assigned |= {name: self._assigned.get(name, "") for name in names}
        self._exported.update(re.findall(r"\bexport (\w+)", placed))
        before = [
            f"{'export ' if name in self._exported else ''}{name}={shlex.quote(value)}"
            for name, value in self._assigned.items()
            if value
        ]
        return "\n".join([*before, placed])

    @property
    def _remembering(self) -> str:
        return f"trap 'pwd > {self._state}; set >> {self._state}' EXIT"

    def _remember(self) -> None:
        here, _, variables = self._state.read_text().partition("\n")
        self._here = Path(here)
        for each in shlex.split(variables):
            name, _, value = each.partition("=")
            if name in self._assigned:
                self._assigned[name] = value


def request(url: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Send a GET, or a POST with *body*; return the status and the body of the response."""
    parts = urlsplit(url)
    with closing(HTTPConnection(parts.netloc, timeout=LONGEST_SECONDS)) as connection:
        connection.request("GET" if body is None else "POST", parts.path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until *condition* is true."""
    until = time.monotonic() + LONGEST_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def parent_of(pid: int) -> int:
    """Return the process that started *pid*."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def section(text: str, heading: str) -> str:
    """Return the part of *text* below *heading*, up to the next heading of any level."""
    fenced, inside, lines = False, False, []
    for line in text.splitlines(keepends=True):
        fenced ^= line.lstrip().startswith("```")
        if not fenced and re.match("#+ ", line):
            inside = line.lstrip("# ").rstrip() == heading
        elif inside:
            lines.append(line)
    assert lines, f"There is no heading {heading!r}."
    return "".join(lines)


def free_port() -> int:
    """Return a port on which nothing listens, outside of the range of outgoing connections."""
    while True:
        port = _CHOICE.randrange(10_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def is_open(port: int) -> bool:
    """Return whether a server accepts connections on *port*."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def is_installed(*programs: str) -> bool:
    """Return whether *programs* are on the PATH of a reader."""
    return all(shutil.which(each, path=SYSTEM_PATH) for each in programs)
