"""`wats doctor`: check a setup, and run the operator's checklist."""

import ipaddress
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import click

from wats.cli.arguments import StrictCommand
from wats.cli.options import ServiceAccess, env_file_of, service_options
from wats.clock import utc_now
from wats.config import checks
from wats.inspection.answer import Answer
from wats.inspection.checklist import ITEMS
from wats.inspection.client import NoAnswer, Remote
from wats.inspection.evidence import HIDDEN, UNREADABLE, Evidence
from wats.inspection.existence_probe import Trial
from wats.inspection.meta import check_meta
from wats.inspection.secret_search import SearchMode, needles
from wats.inspection.setup import Setup, Source, check_setup
from wats.inspection.verdicts import Judged, Verdict, unknown
from wats.privacy import Secret

METHODS: Final = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"),
    "INVENTED",
)
TOTAL_SECONDS: Final = 60.0
"""The time limit of all requests to the service."""

_SHOWN: Final = {Verdict.HOLDS: "holds", Verdict.FAILS: "FAILS", Verdict.UNKNOWN: "unknown"}


@click.command(cls=StrictCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--live",
    is_flag=True,
    help="Also read the token, the number and the app at Meta, with the access token.",
)
@service_options
def doctor(as_json: bool, live: bool, access: ServiceAccess) -> None:
    """Check a setup: config, secrets, files, handlers, database, Graph, and the service.

    Each item holds, fails or is unknown, with advice in the latter two cases. The exit code
    is 1 if an item fails. The command connects to the service, to the database if the service does
    not run, and to Graph, without the access token unless --live is given. With --url, it checks
    the telemetry of that service only. Its requests without a valid token are counted by the
    service as authentication failures.
    """
    if access.url_option is not None:
        if live:
            raise click.UsageError("--live checks the setup of the config; leave out --url.")
        url: str | None = access.url_option
        remote = Remote(access.url_option, total_seconds=TOTAL_SECONDS)
        evidence = _gather(remote, access)
        groups = [(f"The telemetry of {url}", _telemetry(evidence))]
    elif access.config is None:
        access.url()  # raises the error that names the ways to give a config
        return
    else:
        sys.path.insert(0, str(Path.cwd()))  # as for 'wats serve'
        url, groups = _check_all(access, access.config, live=live)
    judged = [each for _, group in groups for each in group]
    click.echo(_as_json(url, judged) if as_json else _as_text(groups))
    if any(each.finding.verdict is Verdict.FAILS for each in judged):
        raise SystemExit(1)


Groups: TypeAlias = list[tuple[str, list[Judged]]]
"""The items under their headings."""


def _check_all(
    access: ServiceAccess, named: tuple[Path, str | None, Path | None], *, live: bool
) -> tuple[str | None, Groups]:
    config, profile, env_file = named
    found = check_setup(
        Source(
            config=config,
            profile=profile,
            env_file=env_file_of(config, env_file),
            environ=os.environ,
        )
    )
    url = None if found.profile is None else found.profile.service.local_url
    return url, [
        ("The setup", [*found.judged]),
        ("Graph", check_meta(found.profile, found.secrets, live=live)),
        ("The telemetry of the service", _telemetry_if_it_runs(access, found)),
    ]


def _telemetry_if_it_runs(access: ServiceAccess, found: Setup) -> list[Judged]:
    reason = "The service does not respond. Start it with 'wats serve'."
    if found.profile is None or found.secrets is None:
        reason = "The config or a secret is not valid."
    elif found.is_running:  # the token is for no other program
        remote = Remote(found.profile.service.local_url, total_seconds=TOTAL_SECONDS)
        with suppress(NoAnswer):
            return _telemetry(_gather(remote, access))
    return [Judged(item.name, item.promise, unknown(reason)) for item in ITEMS]


def _telemetry(evidence: Evidence) -> list[Judged]:
    return [Judged(item.name, item.promise, item.judge(evidence)) for item in ITEMS]


def _gather(remote: Remote, access: ServiceAccess) -> Evidence:
    token, loaded = access.token(), access.load_if_usable()
    sought = [] if loaded is None else needles(*loaded)
    address = remote.address()
    is_safe = remote.is_encrypted or not ipaddress.ip_address(address.partition("%")[0]).is_global
    answers = {path: remote.get(path, token) for path in HIDDEN} if is_safe else {}
    asked_at = utc_now()
    wrong = {
        "with a wrong token": f"Bearer {secrets.token_urlsafe(len(token.reveal()))}",
        "with an empty token": "Bearer ",
        "with another scheme": f"Basic {secrets.token_urlsafe(16)}",
    }
    return Evidence(
        is_encrypted=remote.is_encrypted,
        address=address,
        token=token,
        # Its diagnostics may contain its address and its name.
        sought=[needle for needle in sought if needle.mode is not SearchMode.NAME],
        token_file_mode=_mode(access.token_file),
        without_token=[_trial(remote, each, "without a token", {}) for each in METHODS],
        wrong_token=[
            _trial(remote, method, how, {"authorization": value})
            for how, value in wrong.items()
            for method in METHODS[:3]
        ],
        answers=answers,
        api=_ask_api(remote, token, answers),
        document=remote.get("/openapi.json"),
        asked_at=asked_at,
    )


def _trial(remote: Remote, method: str, how: str, headers: Mapping[str, str]) -> Trial:
    def ask(path: str) -> bytes:
        return remote.exchange(method, path, headers)

    return Trial(
        f"{method} {how}",
        unknown=[ask(f"/{secrets.token_hex(8)}") for _ in range(2)],
        hidden={path: ask(path) for path in HIDDEN},
    )


def _ask_api(remote: Remote, token: Secret, answers: Mapping[str, Answer]) -> Answer | None:
    """Request a route that reads nothing: a service token gets 405, a telemetry token 403."""
    try:
        document = json.loads(answers["/debug/diagnostics"].body)
        prefix = checks.absolute_path.accept(document["configShape"]["service"]["apiPrefix"])
    except (KeyError, TypeError, *UNREADABLE):
        return None
    return remote.get(f"{prefix}/messages/text", token) if isinstance(prefix, str) else None


def _mode(token_file: Path | None) -> int | None:
    if token_file is None or not token_file.is_file():
        return None
    return token_file.stat().st_mode & 0o777


def _as_json(url: str | None, judged: list[Judged]) -> str:
    items = [
        {
            "item": each.name,
            "promise": each.promise,
            "verdict": each.finding.verdict,
            "note": each.finding.note,
        }
        for each in judged
    ]
    holds = all(each.finding.verdict is not Verdict.FAILS for each in judged)
    return json.dumps({"url": url, "holds": holds, "items": items}, indent=2)


def _as_text(groups: Groups) -> str:
    lines: list[str] = []
    for heading, judged in groups:
        lines += [f"{heading}:", "", *_lines_of(judged), ""]
    verdicts = [each.finding.verdict for _, judged in groups for each in judged]
    counts = [verdicts.count(each) for each in Verdict]
    return "\n".join([*lines, "{} hold, {} fail, {} are unknown.".format(*counts)])


def _lines_of(judged: list[Judged]) -> Iterator[str]:
    notes = {each.finding for each in judged}
    if len(judged) > 1 and len(notes) == 1 and (same := notes.pop()).verdict is Verdict.UNKNOWN:
        yield f"  {_SHOWN[same.verdict]:<8} All {len(judged)} items."
        yield from _wrapped(same.note)
        return
    for each in judged:
        yield f"  {_SHOWN[each.finding.verdict]:<8} {each.promise}"
        if each.finding.note and each.finding.verdict is not Verdict.HOLDS:
            yield from _wrapped(each.finding.note)


def _wrapped(note: str) -> list[str]:
    return click.wrap_text(note, 78, " " * 11, " " * 11).splitlines()
