"""Checks of a setup on its machine: config, secrets, files, handlers, database and address.

No check changes a file. A finding shows no value of the config.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from wats.config import (
    FileRef,
    Profile,
    ProfileSource,
    Secrets,
    SecretSource,
    SecretSources,
    choose_profile,
    database_of,
    load_config,
    read_config,
)
from wats.errors import ConfigError, ConfigIssue, StoreError
from wats.extras import install_command
from wats.faults import Fault
from wats.inbound.handlers import Handlers, import_handler
from wats.inspection.client import NoAnswer, Remote
from wats.inspection.evidence import UNREADABLE
from wats.inspection.verdicts import MAX_NAMED, Finding, Judged, fails, holds, some, unknown
from wats.process.server import bind
from wats.references import ImportFailed, import_reference
from wats.store.open import IN_MEMORY, is_open_to_others, path_of_file
from wats.store.sqlite.open_faults import is_disk_full
from wats.store.sqlite.probe import probe as probe_file

TIMEOUT_SECONDS: Final = 5.0

PROMISES: Final[Mapping[str, str]] = {
    "config": "The config is valid.",
    "secrets": "All secrets can be read, and have a valid form.",
    "permissions": "Other users of this machine cannot read the secrets and the database.",
    "handlers": "The handlers and the telemetry sink can be imported.",
    "database": "The database can be used.",
    "port": "The service responds at its address, or the address is free.",
}
"""The items and the properties that must hold, in the order of the output."""

_NO_CONFIG: Final = unknown("The config is not valid.")
_NO_SECRETS: Final = unknown("Not all secrets can be read.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files of a setup, and the environment.

    Attributes:
        config: The config file.
        profile: The name of the profile, if it is not the default.
        env_file: The env file, if there is one.
        environ: The environment variables.
    """

    config: Path
    profile: str | None
    env_file: Path | None
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A setup with its findings, as far as it can be loaded.

    Attributes:
        judged: All items of `PROMISES`.
        profile: The profile, if the config is valid.
        secrets: The secrets, if they can be read too.
        is_running: Whether the service responds at its address.
    """

    judged: Sequence[Judged]
    profile: ProfileSource | None
    secrets: Secrets | None
    is_running: bool


def check_setup(source: Source) -> Setup:
    """Check everything that can be checked on this machine."""
    findings: dict[str, Finding] = {}
    profile = secrets = None
    is_running = False
    try:
        profile = choose_profile(read_config(source.config), source.profile)
        findings["config"] = holds()
    except ConfigError as error:
        findings["config"] = fails(_reasons(error.issues))
    if profile is not None:
        try:
            secrets = load_config(
                source.config,
                environ=source.environ,
                profile=source.profile,
                env_file=source.env_file,
            )[1]
            findings["secrets"] = holds()
        except ConfigError as error:
            findings["secrets"] = fails(_reasons(error.issues))
        is_running = responds(profile.service.local_url)
        findings["permissions"] = _permissions(source, profile, secrets)
        findings["handlers"] = _handlers(profile)
        findings["database"] = _database(profile, secrets, is_running=is_running)
        findings["port"] = _port(profile, is_running=is_running)
    judged = [
        Judged(name, promise, findings.get(name, _NO_CONFIG)) for name, promise in PROMISES.items()
    ]
    return Setup(judged=judged, profile=profile, secrets=secrets, is_running=is_running)


def responds(url: str) -> bool:
    """Return whether a wats service responds at *url*."""
    try:
        answer = Remote(url, timeout_seconds=TIMEOUT_SECONDS).get("/healthz")
        document = json.loads(answer.body)
    except (NoAnswer, *UNREADABLE):
        return False
    return isinstance(document, dict) and document.get("service") == "wats"


def _permissions(source: Source, profile: ProfileSource, secrets: Secrets | None) -> Finding:
    exposed = [name for name, path in _secret_files(source, profile) if _is_for_all(path)]
    database = None if secrets is None else database_of(profile, secrets)[0]
    if database is not None and path_of_file(database) and is_open_to_others(database):
        exposed.append("the database")
    if exposed:
        return fails(
            f"Other users can open the files of {some(exposed)}. Remove their permissions: "
            "'chmod 600 FILE', or 'defaultMode: 0400' of a Kubernetes volume."
        )
    return holds()


def _secret_files(source: Source, profile: ProfileSource) -> Iterator[tuple[str, Path]]:
    """Yield the files with secrets, each with the option or the key that names it."""
    if source.env_file is not None:
        yield "--env-file", source.env_file
    for name, sources in _sources(profile):
        for each in sources:
            if isinstance(each, FileRef):
                yield name, source.config.parent / each.path


def _sources(profile: ProfileSource) -> Iterator[tuple[str, Sequence[SecretSource]]]:
    for each in fields(SecretSources):
        spec = each.metadata["spec"]
        yield f"{spec.section}.{spec.name}", getattr(profile.secrets, each.name)
    if isinstance(profile.persistence.url, FileRef):
        yield "persistence.url", (profile.persistence.url,)
    yield from ((f"the number {each.name!r}", each.access_tokens) for each in profile.numbers)
    yield from ((f"the token {each.name!r}", each.tokens) for each in profile.service.tokens)
    yield from ((f"the subscriber {each.name!r}", each.secrets) for each in profile.subscribers)


def _is_for_all(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o007)
    except OSError:
        return False


def _handlers(profile: Profile) -> Finding:
    handlers = Handlers()
    reasons: list[str] = []
    # A module that prints when it is imported must not disturb the report.
    with contextlib.redirect_stdout(sys.stderr):
        for reference in profile.handlers:
            try:
                handlers.add(import_handler(reference), name=reference)
            except ConfigError as error:
                reasons.append(_reasons(error.issues))
        if profile.telemetry.sink is not None:
            try:
                import_reference(profile.telemetry.sink)
            except ImportFailed as error:
                reasons.append(f"telemetry.sink: it cannot be imported: {error}.")
    if reasons:
        return fails(" ".join(reasons[:MAX_NAMED]))
    if not profile.handlers:
        return holds("No handler is configured, so updates are acknowledged and not handled.")
    return holds(f"{len(profile.handlers)} handlers.")


def _database(profile: Profile, secrets: Secrets | None, *, is_running: bool) -> Finding:
    if profile.persistence.url is None:
        return holds("There is no database, so failed updates are not retried.")
    if is_running:
        url = None if secrets is None else database_of(profile, secrets)[0]
        path = None if url is None else path_of_file(url)
        return _database_of_service(profile.service.local_url, path)
    if secrets is None:
        return _NO_SECRETS
    url, password = database_of(profile, secrets)
    if url is None or url == IN_MEMORY:
        return holds("The database is in memory.")
    if (path := path_of_file(url)) is not None:
        fault = probe_file(path)
        return holds() if fault is None else fails(f"persistence.url: {fault.meaning}.")
    return _server(url, password)


def _database_of_service(url: str, path: str | None) -> Finding:
    try:
        status = Remote(url, timeout_seconds=TIMEOUT_SECONDS).get("/readyz").status
    except NoAnswer:
        status = 0
    if status != 200:
        return fails("The service is running and not ready. Its log and /readyz have the reason.")
    if path is not None and is_disk_full(Path(path).absolute().parent):
        return fails(f"persistence.url: {Fault.DISK_FULL.meaning}.")  # which can still be read
    return holds("The service is ready.")


def _server(url: str, password: str | None) -> Finding:
    try:
        from wats.store.postgres.probe import probe  # asyncpg is optional
    except ModuleNotFoundError as error:
        if (install := install_command(error)) is None:
            raise
        return fails(f"A package is not installed; run: {install}")

    async def ask() -> None:
        async with asyncio.timeout(2 * TIMEOUT_SECONDS):
            await probe(url, password)

    try:
        asyncio.run(ask())
    except (StoreError, TimeoutError) as error:
        issue = error.issue if isinstance(error, StoreError) else None
        reason = Fault.NO_RESPONSE.meaning if issue is None else issue.reason
        return fails(f"persistence.url: {reason}.")
    return holds()


def _port(profile: Profile, *, is_running: bool) -> Finding:
    if is_running:
        return holds("The service responds.")
    try:
        bind(profile.service.host, profile.service.port).close()
    except ConfigError as error:
        reason = error.issues[0].reason.rpartition(": ")[2]
        return fails(
            f"No service responds, and the address cannot be used: {reason}. Stop the other "
            "program, or change 'service.host' or 'service.port'."
        )
    return holds("No service is running, and the address is free.")


def _reasons(issues: Sequence[ConfigIssue]) -> str:
    more = len(issues) - MAX_NAMED
    shown = " ".join(str(issue) for issue in issues[:MAX_NAMED])
    return f"{shown} And {more} more." if more > 0 else shown
