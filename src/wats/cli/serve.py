"""`wats serve`: the gateway as a process, or as several."""

import asyncio
import gc
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from wats.cli.arguments import StrictCommand
from wats.cli.interrupts import ended_by_interrupts
from wats.cli.options import (
    Failure,
    config_options,
    env_file_of,
    found_config,
    load,
    required_config,
)
from wats.clock import to_iso, utc_now
from wats.config import (
    ClientSecrets,
    Profile,
    Secrets,
    ServiceConfig,
    checks,
    choose_profile,
    database_of,
    load_client_config,
    read_config,
    with_overrides,
)
from wats.errors import ConfigError, ConfigIssue, WatsError
from wats.log import announce, write_json_line
from wats.log_format import LOG_FORM, LogFormat, LogLevel
from wats.process.library_logging import capture_library_logs, hide_tracebacks
from wats.process.reload import Reloader, inherited_lifeline, wats_command
from wats.process.server import bind, url_of
from wats.process.shared_listener import Share, shares_of
from wats.process.shutdown import (
    BoundedServer,
    forbid_core_files,
    log_hangup,
    run_service,
    stop_seconds_of,
    survive_hangup,
)
from wats.process.sink_lifecycle import opened_sink
from wats.process.supervisor import ForkedWorker, Supervisor
from wats.references import sources_of
from wats.service import WatsApp, create_wats_service_app
from wats.store.open import IN_MEMORY, is_open_to_others, open_store
from wats.store.sqlite.bell import Bell, bells_of
from wats.telemetry.contract.values import LifecycleEvent
from wats.telemetry.metrics.shared_memory import Board
from wats.web.table import route_table

GC_THRESHOLDS = (50_000, 20, 50)

EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - --paas asks for it

_STDERR = 2
_PORT = re.compile("[1-9][0-9]{0,4}")


@click.command(cls=StrictCommand)
@config_options
@click.option("--host", help="The address to listen on; overrides service.host.")
@click.option(
    "--port", type=int, help="The port to listen on; overrides service.port. 0 selects a free port."
)
@click.option(
    "--workers", type=int, help="The number of worker processes; overrides service.workers."
)
@click.option(
    "--handler",
    "handlers",
    metavar="MODULE:FUNCTION",
    multiple=True,
    help="A handler in addition to those of the config; can be repeated.",
)
@click.option(
    "--sandbox",
    "--dry-run",
    "sandbox",
    is_flag=True,
    help="Run with a built-in simulator, random secrets and a temporary database, on loopback; "
    "paths, groups, limits, handlers and other consumers are those of --config, if it is given.",
)
@click.option(
    "--reload",
    "reloads",
    is_flag=True,
    help="For development: restart when a Python file of the working directory or of a handler's "
    "package changes, or the config. Runs one worker.",
)
@click.option(
    "--log-format",
    type=click.Choice([each.value for each in LogFormat]),
    help="The format of log events; the default is console if stderr is a terminal, otherwise "
    "json.",
)
@click.option(
    "--log-level",
    type=click.Choice([each.value for each in LogLevel]),
    default=LogLevel.INFO.value,
    show_default=True,
    help="The lowest level of log events to write.",
)
@click.option(
    "--show",
    is_flag=True,
    help="With --sandbox: print each message as the customer's phone would show it.",
)
@click.option(
    "--paas",
    is_flag=True,
    help="Listen on 0.0.0.0 and the port in the variable PORT, unless --host and --port are given.",
)
@click.option("--print-routes", is_flag=True, help="Print the routes first.")
@click.option("--live", is_flag=True, expose_value=False, help="Accepted; has no effect.")
@click.option("--yes-live", is_flag=True, expose_value=False, help="Accepted; has no effect.")
@click.pass_context
@ended_by_interrupts()  # until the server reacts to signals
def serve(
    context: click.Context,
    config_path: Path | None,
    profile: str | None,
    env_file: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    handlers: Sequence[str],
    sandbox: bool,
    reloads: bool,
    log_format: str | None,
    log_level: str,
    show: bool,
    paas: bool,
    print_routes: bool,
) -> None:
    """Run the gateway until SIGINT or SIGTERM.

    As soon as connections are accepted, one line of JSON is written to stdout:
    {"event":"wats.ready","url":…,"pid":…}. Log events are written to stderr, one per line.
    """
    _refuse_contradictions(workers, sandbox=sandbox, reloads=reloads, show=show)
    if not sandbox:
        config_path = required_config(config_path)
    _occupy_standard_descriptors()
    LOG_FORM.use(LogFormat(log_format or _usual_format()), LogLevel(log_level))
    # Handlers that the config names may live where the command was started.
    with suppress(FileNotFoundError):  # the folder was removed
        sys.path.insert(0, str(Path.cwd()))
    if reloads:
        words = _words_of(context, without="reloads")
        if workers is None and not sandbox:
            words += ["--workers", "1"]
        with _access_of_sandbox() if sandbox else nullcontext[Mapping[str, str]]({}) as environ:
            _reload(words, environ, config_path, profile, env_file, handlers)
        return
    capture_library_logs()
    forbid_core_files()
    survive_hangup()
    try:
        if paas:
            host, port = _platform_address(host, port)
        if sandbox or config_path is None:
            base, clients = _tried(config_path, profile, env_file)
            run_service(
                _serve_sandbox(
                    base, clients, host, port, handlers, print_routes=print_routes, show=show
                )
            )
            return
        chosen, secrets = load(config_path, profile, env_file)
        chosen = with_overrides(chosen, host=host, port=port, workers=workers, handlers=handlers)
        if print_routes:
            _print_routes(chosen)
        _serve_config(chosen, secrets)
    except WatsError as error:
        raise Failure(error) from None


def _serve_config(profile: Profile, secrets: Secrets) -> None:
    if profile.service.workers == 1:
        run_service(_serve_alone(profile, secrets))
    else:
        _serve_by_workers(profile, secrets)


def _refuse_contradictions(
    workers: int | None, *, sandbox: bool, reloads: bool, show: bool
) -> None:
    if sandbox and workers is not None:
        raise click.UsageError("The sandbox runs in one process; use --workers with a config.")
    if reloads and workers not in {None, 1}:
        raise click.UsageError("With --reload, the service runs in one process.")
    if show and not sandbox:
        raise click.UsageError("Give --show with --sandbox, or to 'wats simulate'.")


def _usual_format() -> LogFormat:
    return LogFormat.CONSOLE if os.isatty(_STDERR) else LogFormat.JSON


def _words_of(context: click.Context, *, without: str) -> list[str]:
    """Return the words of this command, without the option *without*."""
    words = [context.info_name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name == without or source is not ParameterSource.COMMANDLINE:
            continue
        value = context.params.get(name, True)  # without one, it is a flag that has no effect
        for each in value if isinstance(value, tuple) else (value,):
            words += [parameter.opts[0]] if each is True else [parameter.opts[0], str(each)]
    return words


def _reload(
    words: Sequence[str],
    environ: Mapping[str, str],
    config_path: Path | None,
    profile: str | None,
    env_file: Path | None,
    handlers: Sequence[str],
) -> None:
    def watched() -> Iterator[Path]:
        yield Path()
        references = list(handlers)
        if config_path is not None:
            yield config_path
            if (found := env_file_of(config_path, env_file)) is not None:
                yield found
            with suppress(ConfigError):  # which the service reports
                references += choose_profile(read_config(config_path), profile).handlers
        for reference in references:
            yield from sources_of(reference)

    report = partial(click.echo, err=True)
    Reloader(wats_command(*words), watched=watched, report=report, environ=environ).run()


def _occupy_standard_descriptors() -> None:
    """Open the closed ones of stdin, stdout and stderr, on nothing.

    Otherwise the database or a connection would get their numbers, and what a library writes to
    stderr would be written there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _platform_address(host: str | None, port: int | None) -> tuple[str, int]:
    """Return the address that a platform expects; *host* and *port* of the options take precedence.

    Raises:
        ConfigError: The variable `PORT` is needed, and is not a port.
    """
    if port is None:
        text = os.environ.get("PORT", "")
        port = int(text) if _PORT.fullmatch(text) else 0
        if checks.port.accept(port) is None:
            reason = f"Must be {checks.port.expects}, for --paas."
            raise ConfigError([ConfigIssue("invalid_service_port", "PORT", reason)])
    return EVERY_ADDRESS if host is None else host, port


def _is_on(variable: str) -> bool:
    return os.environ.get(variable) in {"1", "true"}


def _print_routes(profile: Profile) -> None:
    for route in route_table(profile, groups_enabled=profile.groups.enabled):
        methods = ", ".join(method.value for method in route.methods)
        click.echo(f"{methods:<20} {route.path.replace('*', ':')}")


async def _serve_alone(profile: Profile, secrets: Secrets) -> None:
    async with _made(profile, secrets) as app:
        listener = bind(profile.service.host, profile.service.port)
        service, lifeline = profile.service, inherited_lifeline()
        if lifeline is not None:  # a restart after a change must not take long
            service = replace(service, drain_seconds=0.0)
        with _ending_with(lifeline):
            await _run(app, listener, service, ready=partial(_announce, profile))


def _access_of_sandbox() -> AbstractContextManager[Mapping[str, str]]:
    from wats.simulator.sandbox import lasting_access

    return lasting_access()


def _tried(
    config_path: Path | None, profile: str | None, env_file: Path | None
) -> tuple[Profile | None, ClientSecrets | None]:
    """Return the profile that a sandbox tries, if there is one, and the secrets of its clients."""
    if config_path is None:
        return None, None
    found = env_file_of(config_path, env_file)
    return load_client_config(config_path, environ=os.environ, profile=profile, env_file=found)


async def _serve_sandbox(
    base: Profile | None,
    clients: ClientSecrets | None,
    host: str | None,
    port: int | None,
    handlers: Sequence[str],
    *,
    print_routes: bool,
    show: bool,
) -> None:
    from wats.simulator.sandbox import Sandbox  # imports a web framework, for the sandbox only

    log_updates, echoes = _is_on("WATS_LOG_WEBHOOK_EVENTS"), _is_on("WATS_ECHO_REPLY")
    async with Sandbox(
        base,
        clients,
        host=host,
        port=port,
        echoes=echoes,
        log_updates=log_updates,
        handlers=handlers,
        show=show,
        unused=found_config(None) if base is None else None,
    ) as sandbox:
        if print_routes:
            _print_routes(sandbox.profile)

        def ready(url: str) -> None:
            sandbox.greet(url)
            _announce(sandbox.profile, url)

        listener = bind(sandbox.profile.service.host, sandbox.profile.service.port)
        with _ending_with(inherited_lifeline()):
            await _run(sandbox.app, listener, sandbox.profile.service, ready=ready)


def _serve_by_workers(profile: Profile, secrets: Secrets) -> None:
    """Become the supervisor of the workers, or one of the workers: this forks."""
    url, password = database_of(profile, secrets)
    if url == IN_MEMORY:
        reason = "must be 1 if the database is in memory, which processes cannot share"
        raise ConfigError([ConfigIssue("invalid_service_workers", "service.workers", reason)])
    store = open_store(url, password=password) if url is not None else None
    if store is not None:
        store.occupy()  # for the workers, which inherit the lock
    count = profile.service.workers
    listener = bind(profile.service.host, profile.service.port)
    board, shares, bells = Board(count), shares_of(count), bells_of(count)
    supervisor = Supervisor(
        board,
        shares,
        ready=partial(_announce, profile, url_of(listener)),
        stopping=listener.close,
        stop_seconds=stop_seconds_of(profile.service),
        hung_up=log_hangup,
    )
    # Memory shared with the supervisor is copied when a worker writes to it, and a garbage
    # collection writes. Frozen before the fork, four workers take 83 MB instead of 126.
    gc.collect()
    gc.freeze()
    worker = supervisor.run()
    if worker is None:
        return
    try:
        inherited = _InheritedState(listener, board, shares[worker.row], bells[worker.row])
        run_service(_work(profile, secrets, worker, inherited))
    except WatsError as error:
        if worker.is_ready:
            raise
        worker.refuse(error)
        raise click.exceptions.Exit(1) from None


class _InheritedState(NamedTuple):
    """State that a worker process inherits through the fork."""

    listener: socket.socket
    board: Board
    share: Share
    bell: Bell


async def _work(
    profile: Profile, secrets: Secrets, worker: ForkedWorker, inherited: _InheritedState
) -> None:
    # The objects of a worker are made after the fork, so there may be threads.
    made = _made(profile, secrets, inherited.bell, board=inherited.board, row=worker.row)
    async with made as app:
        if worker.is_replacement:
            app.telemetry.service.worker_replaced()
            app.telemetry.service.event(LifecycleEvent.WORKER_REPLACED)
        with _ending_with(worker.lifeline):
            await _run(
                app,
                inherited.listener,
                profile.service,
                ready=lambda _url: worker.ready(),
                share=inherited.share,
            )


@contextmanager
def _ending_with(lifeline: int | None) -> Iterator[None]:
    """End this process, as if signalled, when *lifeline* reports that its parent is gone."""
    if lifeline is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(lifeline)
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(lifeline, end)
    try:
        yield
    finally:
        loop.remove_reader(lifeline)


@asynccontextmanager
async def _made(
    profile: Profile, secrets: Secrets, bell: Bell | None = None, **shared: Any
) -> AsyncIterator[WatsApp]:
    url, password = database_of(profile, secrets)
    async with opened_sink(profile.telemetry.sink) as sink:
        yield create_wats_service_app(
            profile=profile,
            secrets=secrets,
            telemetry_sink=sink,
            log_updates=_is_on("WATS_LOG_WEBHOOK_EVENTS"),
            persistence=(
                open_store(
                    url,
                    password=password,
                    bell=bell,
                    timeout_seconds=profile.persistence.timeout_seconds,
                )
                if url is not None
                else None
            ),
            **shared,
        )


async def _run(
    app: WatsApp,
    listener: socket.socket,
    service: ServiceConfig,
    *,
    ready: Callable[[str], None],
    share: Share | None = None,
) -> None:
    server = BoundedServer(app, service, ready=ready, share=share)
    # A signal during the start of the application ends it as well, once it can be stopped.
    with server.capture_signals():
        server.loop_watch.start()
        # Before the server, which would report a failed start with a stack trace.
        await app.start()
        collect_garbage_less_often()
        hide_tracebacks()
        await server.serve(sockets=[listener])


def collect_garbage_less_often() -> None:
    """Let the garbage collector run less often, and not inspect the existing objects.

    These stay, and a request leaves few cycles behind. It took a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _announce(profile: Profile, url: str) -> None:
    database = profile.persistence.url
    if isinstance(database, str) and is_open_to_others(database):
        write_json_line({"event": "wats.database.exposed", "at": to_iso(utc_now())})
    announce("wats.ready", url=url, pid=os.getpid())
