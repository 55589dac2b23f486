"""`wats serve`: the gateway as a process."""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click
import uvloop

from wats.cli.logs import capture_library_logs
from wats.cli.options import Failure, announce, config_options, load
from wats.cli.sandbox import Sandbox
from wats.config import Profile, Secrets, with_overrides
from wats.errors import WatsError
from wats.service import WatsApp, create_wats_service_app
from wats.store.open import open_store
from wats.web.server import Server, bind

GC_THRESHOLDS = (50_000, 20, 50)


@click.command()
@config_options
@click.option("--host", help="The address to listen on instead of the configured one.")
@click.option("--port", type=int, help="The port to listen on instead; 0 takes any free one.")
@click.option(
    "--sandbox",
    is_flag=True,
    help="Run against a built-in simulator, with random secrets, on loopback; needs no config.",
)
def serve(
    config_path: Path | None,
    profile: str | None,
    env_file: Path | None,
    host: str | None,
    port: int | None,
    sandbox: bool,
) -> None:
    """Run the gateway until SIGINT or SIGTERM.

    When connections are accepted, one line of JSON goes to stdout:
    {"event":"wats.ready","url":…,"pid":…}. Events go to stderr, one line of JSON each.
    """
    if sandbox == (config_path is not None):
        raise click.UsageError("Name a config file with --config, or use --sandbox alone.")
    # Handlers that the config names may live where the command was started.
    sys.path.insert(0, str(Path.cwd()))
    capture_library_logs()
    try:
        if config_path is None:
            uvloop.run(_serve_sandbox(host, port))
        else:
            chosen, secrets = load(config_path, profile, env_file)
            uvloop.run(_serve(with_overrides(chosen, host=host, port=port), secrets))
    except WatsError as error:
        raise Failure(error) from None


async def _serve(profile: Profile, secrets: Secrets) -> None:
    url = profile.persistence.url
    store = open_store(url) if url is not None else None
    app = create_wats_service_app(profile=profile, secrets=secrets, persistence=store)
    await _run(app, profile)


async def _run(
    app: WatsApp, profile: Profile, greet: Callable[[str], None] = lambda _: None
) -> None:
    listener = bind(profile.service.host, profile.service.port)
    # Before the server, whose own report of a start that fails would be a stack.
    await app.start()
    # What is there now stays, and a request leaves hardly a cycle behind: the collector need look
    # less often, and not at all at what is frozen. It took a tenth of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)

    def ready(url: str) -> None:
        greet(url)
        announce("wats.ready", url=url, pid=os.getpid())

    await Server(app, ready=ready, hook=app.hook).serve(sockets=[listener])


async def _serve_sandbox(host: str | None, port: int | None) -> None:
    async with Sandbox(host=host, port=port) as sandbox:
        await _run(sandbox.app, sandbox.profile, sandbox.greet)
