"""`wats simulate`: a fake Meta as a process, for development and load tests."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import click
import uvloop

from wats.cli.arguments import StrictCommand
from wats.cli.options import Failure, config_options, load, required_config
from wats.config import checks
from wats.errors import ConfigError, ConfigIssue
from wats.log import announce, print_line
from wats.process.library_logging import capture_library_logs
from wats.simulator import Simulator, SimulatorSettings
from wats.simulator.configured import simulated_numbers


def _webhook_url(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and checks.web_url.accept(value) is None:
        msg = f"Must be {checks.web_url.expects}."
        raise click.BadParameter(msg)
    return value


@click.command(cls=StrictCommand)
@config_options
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, checks.MAX_PORT),
    metavar="PORT",
    help="The port to listen on; the default is that of graph.baseUrl. 0 selects a free port.",
)
@click.option(
    "--webhook-url",
    callback=_webhook_url,
    help="The URL to send webhooks to; the default is the configured service.",
)
@click.option(
    "--duplicates",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="The share of webhook items to redeliver.",
)
@click.option("--seed", type=int, default=0, help="The seed of random choices.")
@click.option(
    "--show", is_flag=True, help="Print each message as the customer's phone would show it."
)
def simulate(
    config_path: Path | None,
    profile: str | None,
    env_file: Path | None,
    host: str,
    port: int | None,
    webhook_url: str | None,
    duplicates: float,
    seed: int,
    show: bool,
) -> None:
    """Run a fake Meta for the service that a config file describes, until SIGINT or SIGTERM.

    It accepts the service's Graph calls and sends webhooks that are signed with the service's app
    secret. Special recipients cause each kind of failure.
    """
    config_path = required_config(config_path)
    capture_library_logs()
    try:
        chosen, secrets = load(config_path, profile, env_file)
        hook = f"{chosen.service.local_url}{chosen.webhook.path}"
        settings = SimulatorSettings(
            app_secret=secrets.app_secrets[0],
            verify_token=secrets.verify_token,
            access_token=secrets.access_token,
            host=host,
            port=port if port is not None else urlsplit(chosen.graph.base_url).port or 0,
            waba_id=chosen.whatsapp.waba_id,
            phone_number_id=chosen.whatsapp.phone_number_id,
            numbers=simulated_numbers(chosen, secrets),
            webhook_url=webhook_url if webhook_url is not None else hook,
            duplicate_rate=duplicates,
            seed=seed,
        )
        uvloop.run(_simulate(settings, show=show))
    except ConfigError as error:
        raise Failure(error) from None


async def _simulate(settings: SimulatorSettings, *, show: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    simulator = Simulator(settings)
    if show:
        simulator.show(print_line)
    try:
        await simulator.start()
    except OSError as error:
        reason = "The address cannot be resolved"
        if error.errno and not isinstance(error, socket.gaierror):  # whose numbers are its own
            reason = os.strerror(error.errno)
        issue = ConfigIssue("address_unavailable", "--host, --port", f"{reason}.")
        raise ConfigError([issue], "The simulator cannot listen on this address.") from None
    announce("wats.ready", url=simulator.url, pid=os.getpid())
    await stopped.wait()
    await simulator.stop()
