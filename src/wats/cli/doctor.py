"""`wats doctor`: run the operator's checklist."""

import ipaddress
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from wats.cli.arguments import StrictCommand
from wats.cli.options import Credentials, credential_options
from wats.clock import utc_now
from wats.config import checks
from wats.inspection.checklist import ITEMS, Finding, Item, Verdict
from wats.inspection.client import Remote, service_url
from wats.inspection.evidence import HIDDEN, UNREADABLE, Answer, Evidence
from wats.inspection.existence_probe import Trial
from wats.inspection.secret_search import Care, needles
from wats.privacy import Secret

METHODS: Final = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"),
    "INVENTED",
)
_SHOWN: Final = {Verdict.HOLDS: "holds", Verdict.FAILS: "FAILS", Verdict.UNKNOWN: "unknown"}


@click.command(cls=StrictCommand)
@click.option(
    "--telemetry",
    "url",
    metavar="URL",
    callback=service_url,
    required=True,
    help="The URL of the service.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@credential_options
def doctor(url: str, as_json: bool, credentials: Credentials) -> None:
    """Check the telemetry of a running service against the operator's checklist.

    Each item holds, fails or is unknown, with advice in the latter two cases. The exit code
    is 1 if an item fails. The command connects to the service at the URL only. Its requests
    without a valid token are counted there as authentication failures.
    """
    evidence = _gather(Remote(url), credentials)
    findings = [(item, item.judge(evidence)) for item in ITEMS]
    click.echo(_as_json(url, findings) if as_json else _as_text(url, findings))
    if any(finding.verdict is Verdict.FAILS for _, finding in findings):
        raise SystemExit(1)


def _gather(remote: Remote, credentials: Credentials) -> Evidence:
    token, loaded = credentials.token(), credentials.load()
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
        sought=[needle for needle in sought if needle.care is not Care.NAME],
        token_file_mode=_mode(credentials.token_file),
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
    """Request a route that reads nothing: a service token gets 405, a telemetry token 401."""
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


def _as_json(url: str, findings: list[tuple[Item, Finding]]) -> str:
    items = [
        {"item": item.name, "promise": item.promise, "verdict": found.verdict, "note": found.note}
        for item, found in findings
    ]
    holds = all(found.verdict is not Verdict.FAILS for _, found in findings)
    return json.dumps({"url": url, "holds": holds, "items": items}, indent=2)


def _as_text(url: str, findings: list[tuple[Item, Finding]]) -> str:
    lines = [f"The telemetry of {url}:", ""]
    for item, found in findings:
        lines.append(f"  {_SHOWN[found.verdict]:<8} {item.promise}")
        if found.note and found.verdict is not Verdict.HOLDS:
            lines += click.wrap_text(found.note, 78, " " * 11, " " * 11).splitlines()
    counts = [sum(found.verdict is each for _, found in findings) for each in Verdict]
    lines += ["", "{} hold, {} fail, {} are unknown.".format(*counts)]
    return "\n".join(lines)
