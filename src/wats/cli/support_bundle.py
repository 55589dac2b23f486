"""`wats support-bundle`: data of a service that may be shared with support."""

import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import apsw
import click
import msgspec

from wats.cli.arguments import StrictCommand
from wats.cli.options import FILE, ServiceAccess, service_options, write_output
from wats.clock import to_iso, utc_now
from wats.config import redact
from wats.inspection.client import NoAnswer, Remote
from wats.inspection.evidence import UNREADABLE
from wats.inspection.samples import Samples
from wats.inspection.secret_search import PUBLIC, Haystack, Needle, SearchMode, needles
from wats.inspection.telemetry_contract import Vocabulary, looks_private, strings_of
from wats.privacy import REDACTED, Secret
from wats.version import __version__
from wats.web.ops.status import Diagnostics, ServiceStatus

LIBRARIES: Final = (
    "aiohttp",
    "apsw",
    "click",
    "httptools",
    "msgspec",
    "PyYAML",
    "uvicorn",
    "uvloop",
)
_TELLING: Final = frozenset({"apiVersion", "apiPrefix", "families"})
"""The config keys whose text may be shared; of others the bundle shows only that they are set."""


@click.command("support-bundle", cls=StrictCommand)
@click.option("--out", type=FILE, help="Write to a new file instead of stdout.")
@service_options
def support_bundle(out: Path | None, access: ServiceAccess) -> None:
    """Print a redacted report about a service as JSON, for a bug report or a support request.

    The report holds versions, counts, the redacted config, and the telemetry of the service, which
    is left out if the service does not respond and --url is not given. Before the report is
    written, it is searched for every secret and identifier of the config, also in parts and
    encoded; if one is found, nothing is written.
    """
    loaded = access.load()
    sought = needles(*loaded) if loaded is not None else []
    facts: dict[str, Any] = {
        "bundle": {"wats": __version__, "madeAt": to_iso(utc_now())},
        "versions": _versions(),
        "config": None if loaded is None else _shape(redact(loaded[0])),
        "service": None,
    }
    if loaded is not None or access.url_option is not None:
        token = access.token()
        sought.append(Needle("the token", token, SearchMode.SECRET))
        facts["service"] = _ask_if_it_runs(access, token)
    facts["bundle"]["searchedFor"] = sorted({needle.key for needle in sought})
    _refuse_leaks(json.dumps(facts, ensure_ascii=False), facts["service"], sought)
    if loaded is None:
        click.echo(
            "Without a config, the report was not searched for the secrets of a config.", err=True
        )
    # In ASCII, no text of a service can control the terminal.
    write_output(json.dumps(facts, indent=2), out, mode=0o600)


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "platform": f"{sys.platform} {platform.machine()}",
        "sqlite": apsw.sqlite_lib_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
    }


def _shape(value: Any, key: str = "") -> Any:
    """Return a part of a redacted config without texts that may be personal."""
    if isinstance(value, dict):
        return {name: _shape(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_shape(each) for each in value]
    if isinstance(value, str) and value != "none" and key not in _TELLING:
        return REDACTED
    return value


def _ask_if_it_runs(access: ServiceAccess, token: Secret) -> dict[str, Any] | None:
    """Return the telemetry of the service; `None` if it is only assumed to run, and does not.

    Raises:
        NoAnswer: The service that an option names does not return it.
    """
    try:
        return _ask(Remote(access.url()), token)
    except NoAnswer as error:
        if access.url_option is not None:
            raise
        click.echo(f"The report holds no telemetry: {error.message}", err=True)
        return None


def _ask(remote: Remote, token: Secret) -> dict[str, Any]:
    """Return the telemetry of a service, as far as it is known to be harmless.

    Raises:
        NoAnswer: The service does not return it.
    """
    answers = {}
    for path in ("/status", "/debug/diagnostics", "/metrics"):
        answer = remote.get(path, token)
        if answer.status != 200:
            msg = f"{remote.url} responds with {answer.status}; 404 means an invalid token."
            raise NoAnswer(msg)
        answers[path] = answer.body
    try:
        status = msgspec.json.decode(answers["/status"], type=ServiceStatus)
        diagnostics = msgspec.json.decode(answers["/debug/diagnostics"], type=Diagnostics)
        samples = Samples.parse(answers["/metrics"].decode())
    except UNREADABLE:
        msg = f"{remote.url} sends a response that is not from wats."
        raise NoAnswer(msg) from None
    shown = msgspec.to_builtins(diagnostics)
    if diagnostics.config_shape.service.host not in PUBLIC:
        shown["configShape"]["service"]["host"] = REDACTED
    return {
        "status": msgspec.to_builtins(status),
        "diagnostics": shown,
        "metrics": _known(samples, Vocabulary(status)),
    }


def _known(samples: Samples, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the values other than 0, without those outside the vocabulary.

    Of the cumulative buckets of a histogram, only those are returned that hold more than the one
    before.
    """
    shown: dict[str, float] = {}
    before: dict[object, float] = {}
    left_out = 0
    for name, labels, value in samples:
        if vocabulary.objection(name, labels) is not None:
            left_out += 1
            continue
        series = (name, *(pair for pair in labels if pair[0] != "le"))
        if value != before.get(series, 0.0):
            text = ",".join(f"{key}={each}" for key, each in labels)
            # No more digits than significant: long numbers could look like an id.
            shown[f"{name}{{{text}}}"] = int(value) if value.is_integer() else float(f"{value:.4g}")
        before[series] = value
    return {"samples": len(samples), "leftOut": left_out, "notZero": shown}


def _refuse_leaks(text: str, service: object, sought: list[Needle]) -> None:
    found = Haystack(text).keys_of(sought)
    if found:
        msg = f"The bundle would contain {', '.join(found)}, or a part. Nothing was written."
        raise click.ClickException(msg)
    kinds = {kind for each in strings_of(service) for kind in looks_private(each)}
    if kinds:
        msg = f"The service's response contains {', '.join(sorted(kinds))}. Nothing was written."
        raise click.ClickException(msg)
