"""`wats init`: the files of a first service."""

import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from wats.cli.arguments import StrictCommand
from wats.cli.options import CONFIG_NAME, ENV_NAME, Failure
from wats.errors import ConfigError, ConfigIssue
from wats.faults import Fault, fault_of

HANDLER_NAME: Final = "orders.py"
SECRET_BYTES: Final = 32
SECRET_NAMES: Final = (
    "WATS_ACCESS_TOKEN",
    "WATS_VERIFY_TOKEN",
    "WATS_APP_SECRET",
    "WATS_SERVICE_BEARER_TOKEN",
    "WATS_TELEMETRY_BEARER_TOKEN",
)

_FOR_OWNER: Final = 0o600
_FOR_ALL: Final = 0o666  # without the bits of the umask


@click.command(cls=StrictCommand)
def init() -> None:
    """Write a config, an env file with random secrets and an example handler.

    The files are wats.config.yaml, wats.env and orders.py in the working directory; none is
    overwritten. With them, the gateway works with the fake Meta of 'wats simulate'.
    """
    files = {
        CONFIG_NAME: (_CONFIG, _FOR_ALL),
        ENV_NAME: (_env_file(), _FOR_OWNER),
        HANDLER_NAME: (_HANDLER, _FOR_ALL),
    }
    try:
        _write_all(files)
    except ConfigError as error:
        raise Failure(error) from None
    click.echo(_NEXT.format(wats=_program()))


def _program() -> str:
    """Return the program as a shell finds it: its path, unless its name is on the PATH."""
    called = sys.argv[0]
    is_needed = Path(called).name == "wats" and shutil.which("wats") is None
    return shlex.quote(called) if is_needed else "wats"


def _env_file() -> str:
    lines = [f"{name}={secrets.token_hex(SECRET_BYTES)}" for name in SECRET_NAMES]
    return "\n".join([_ENV_HEAD, *lines, ""])


def _write_all(files: Mapping[str, tuple[str, int]]) -> None:
    """Write all *files*, name to content and mode, or none.

    Raises:
        ConfigError: A file exists, or cannot be written.
    """
    if existing := [name for name in files if os.path.lexists(name)]:
        raise _refusal(dict.fromkeys(existing, Fault.FILE_EXISTS))
    written: list[str] = []
    for name, (content, mode) in files.items():
        try:
            _write(name, content, mode, written)
        except OSError as error:
            for each in written:
                Path(each).unlink(missing_ok=True)
            raise _refusal({name: fault_of(error)}) from None


def _write(name: str, content: str, mode: int, written: list[str]) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    written.append(name)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)


def _refusal(faults: Mapping[str, Fault]) -> ConfigError:
    issues = [ConfigIssue(each.value, name, f"{each.meaning}.") for name, each in faults.items()]
    return ConfigError(issues, "Nothing was written.")


_CONFIG: Final = """\
# The configuration of a wats gateway, for a first try with the fake Meta of `wats simulate`.
# For Meta itself, change baseUrl and the ids here, and the secrets in wats.env.
version: 1
defaultProfile: local
profiles:
  local:
    graph:
      apiVersion: v25.0
      baseUrl: http://127.0.0.1:9900 # Meta's is https://graph.facebook.com
    whatsapp:
      wabaId: "100000000000001" # made up; yours is in the app's settings at Meta, as the next one
      phoneNumberId: "200000000000002"
    auth:
      accessToken: { env: WATS_ACCESS_TOKEN }
    webhook:
      path: /webhooks/whatsapp
      verifyToken: { env: WATS_VERIFY_TOKEN }
      appSecret: { env: WATS_APP_SECRET }
    service:
      host: 127.0.0.1
      port: 8787
      apiPrefix: /api
      bearerToken: { env: WATS_SERVICE_BEARER_TOKEN }
    telemetry:
      bearerToken: { env: WATS_TELEMETRY_BEARER_TOKEN }
    handlers: ["orders:on_update"]
"""

_ENV_HEAD: Final = """\
# The secrets of wats.config.yaml, at random. Keep this file out of version control.
# For Meta itself, set the access token and the app secret of your app."""

_HANDLER: Final = """\
from wats import Update
from wats.content import Text


async def on_update(update: Update) -> None:
    match update.message:
        case Text(body=body):
            await update.reply(f"You wrote: {body}")
"""

_NEXT: Final = """\
Wrote wats.config.yaml, wats.env with random secrets, and the handler orders.py.
Keep wats.env out of version control. Start the gateway:

  {wats} serve

In other terminals, start a fake Meta, and write to the gateway as a customer:

  {wats} simulate
  curl -s http://127.0.0.1:9900/_simulator/inbound -d '{{"from": "15550001234", "text": "Hi!"}}'\
"""
