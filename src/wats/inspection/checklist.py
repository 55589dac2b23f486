"""The operator's checklist: promises about a service's telemetry, and how to check them. No I/O.

The responses are gathered elsewhere; here they are judged. No finding shows a value from the
service, and none shows the token.
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

import msgspec

from wats.config import checks
from wats.inspection.evidence import HIDDEN, Evidence
from wats.inspection.existence_probe import Trial
from wats.inspection.secret_search import Care, Haystack, Needle
from wats.inspection.telemetry_contract import (
    Vocabulary,
    looks_private,
    shown_secrets,
    strings_of,
    unknown_fields,
)
from wats.telemetry.contract.families import SERIES
from wats.telemetry.contract.values import SeriesCount
from wats.version import __version__
from wats.web.ops.status import Diagnostics, Status

CLOCK_SECONDS: Final = 30.0
SERIES_BUDGET: Final = 4000
MAX_NAMED: Final = 5


class Verdict(StrEnum):
    """Whether an item holds; `unknown` if it cannot be checked from outside."""

    HOLDS = "holds"
    FAILS = "fails"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one item, with its evidence or its remedy."""

    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the checklist.

    Attributes:
        name: Its name in JSON.
        promise: The property that must hold.
        judge: Returns whether it does.
    """

    name: str
    promise: str
    judge: Callable[[Evidence], Finding]


def _holds(note: str = "") -> Finding:
    return Finding(Verdict.HOLDS, note)


def _fails(note: str) -> Finding:
    return Finding(Verdict.FAILS, note)


def _unknown(note: str) -> Finding:
    return Finding(Verdict.UNKNOWN, note)


def _by_hand(note: str) -> Callable[[Evidence], Finding]:
    return lambda _: _unknown(note)


_CLOSED: Final = "The token did not open all three routes, so there is nothing to judge."


def _if_open(judge: Callable[[Evidence], Finding]) -> Callable[[Evidence], Finding]:
    """Pass *judge* only readable evidence with all three responses; fail the item otherwise."""

    def judged(evidence: Evidence) -> Finding:
        if not evidence.is_open:
            return _unknown(_CLOSED)
        try:
            return judge(evidence)
        except (ValueError, msgspec.MsgspecError):
            return _fails("What is answered cannot be read; it is not what wats answers.")

    return judged


def _hides(trials: Sequence[Trial]) -> Finding:
    differences = [each for trial in trials for each in trial.differences()]
    if differences:
        return _fails(f"They answer otherwise to {_some(differences)}.")
    if any(trial.is_vague() for trial in trials):
        return _unknown(
            "Even paths that do not exist get different answers here, so something in between "
            "writes them. Ask where the service itself is reached."
        )
    return _holds(f"{len(trials)} kinds of requests compared.")


def _opens(evidence: Evidence) -> Finding:
    if not evidence.answers:
        return _unknown("The token was not sent, as anybody on the way could have read it.")
    statuses = {path: evidence.answers[path].status for path in HIDDEN}
    closed = [f"{path} ({status})" for path, status in statuses.items() if status != 200]
    if not closed:
        return _holds()
    return _fails(
        f"Not 200: {_some(closed)}. With 404 the token is not one of the service's, or something "
        "in between does not pass it on."
    )


def _document_is_silent(evidence: Evidence) -> Finding:
    if evidence.document.status != 200:
        return _holds("Strangers get no document here.")
    named = [path for path in HIDDEN if path.encode() in evidence.document.body]
    return _fails(f"It names {_some(named)}.") if named else _holds()


def _is_private(evidence: Evidence) -> Finding:
    address = ipaddress.ip_address(evidence.address.partition("%")[0])
    if evidence.is_encrypted:
        return _holds("It is reached by TLS.")
    if address.is_loopback:
        return _holds("It is reached on this machine, by plain HTTP. See how the scraper does.")
    if address.is_global:
        return _fails("It is reached by plain HTTP at a public address. Put TLS before it.")
    return _unknown("It is reached by plain HTTP at a private address; nobody else may read there.")


def _is_strong(evidence: Evidence) -> Finding:
    rule = checks.bearer_token
    if rule.accept(evidence.token.reveal()) is None:
        return _fails(f"A token must be {rule.expects}.")
    return _holds("It is long enough; whether it is random, only its maker knows.")


def _is_separate(evidence: Evidence) -> Finding:
    if evidence.api is None:
        return _unknown("The API was not asked. A GET of one of its routes must be 401.")
    if evidence.api.status == 401:
        return _holds("The API answers it with 401.")
    if evidence.api.status == 405:
        return _fails(
            "It opens the API too, so whoever can read it can send messages. Give the scraper a "
            "'telemetry.bearerToken' of its own."
        )
    return _unknown("The API cannot be reached here. A GET of one of its routes must be 401.")


@_if_open
def _is_known(evidence: Evidence) -> Finding:
    objections = Vocabulary(evidence.status).objections(evidence.samples)
    if not objections:
        return _holds(f"{len(evidence.samples)} samples compared.")
    if evidence.status.version != __version__:
        return _unknown("The service has another version than this command; use that of its own.")
    return _fails(f"There is {_some(objections)}.")


@_if_open
def _has_known_fields(evidence: Evidence) -> Finding:
    diagnostics = evidence.document_of("/debug/diagnostics")
    found = [
        *(f"in /status {each}" for each in unknown_fields(evidence.document_of("/status"), Status)),
        *(f"in the diagnostics {each}" for each in unknown_fields(diagnostics, Diagnostics)),
    ]
    if not found and (shown := shown_secrets(diagnostics["configShape"])):
        found = [f"in the diagnostics {each} is shown" for each in shown]
    return _fails(f"{_some(found).capitalize()}.") if found else _holds()


@_if_open
def _is_silent(evidence: Evidence) -> Finding:
    sought = [Needle("the token", evidence.token, Care.SECRET), *evidence.sought]
    leaks = [
        f"{path}: {key}" for path in HIDDEN for key in _haystack(evidence, path).keys_of(sought)
    ]
    told = {
        "/metrics": (value for _, labels, _ in evidence.samples for _, value in labels),
        **{path: strings_of(evidence.document_of(path)) for path in HIDDEN[1:]},
    }
    for path, strings in told.items():
        kinds = dict.fromkeys(kind for text in set(strings) for kind in looks_private(text))
        leaks += [f"{path}: what looks like {kind}" for kind in sorted(kinds)]
    return _fails(f"Found: {_some(leaks)}.") if leaks else _holds()


@_if_open
def _is_not_stored(evidence: Evidence) -> Finding:
    stored = [
        path
        for path in HIDDEN
        if "no-store" not in evidence.answers[path].headers.get("cache-control", "")
    ]
    return _fails(f"No 'Cache-Control: no-store' at {_some(stored)}.") if stored else _holds()


@_if_open
def _has_the_time(evidence: Evidence) -> Finding:
    date = parsedate_to_datetime(evidence.answers["/status"].headers.get("date", ""))
    apart = abs((evidence.asked_at - date.replace(tzinfo=UTC)).total_seconds())
    if apart > CLOCK_SECONDS:
        return _fails(f"It and the clock here are {apart:.0f} s apart; one of them is wrong.")
    return _holds()


@_if_open
def _is_bounded(evidence: Evidence) -> Finding:
    live = len(evidence.samples)
    told = evidence.samples.total(SERIES.name, kind=SeriesCount.BUDGET)
    budget = told or SERIES_BUDGET
    if live > budget:
        return _fails(f"There are {live} series, and there may be {budget:.0f}.")
    return _holds(f"{live} of at most {budget:.0f}.")


def _is_kept(evidence: Evidence) -> Finding:
    mode = evidence.token_file_mode
    if mode is not None and mode & 0o007:
        return _fails("Everybody on this machine may use the token's file; take that away.")
    return _unknown(
        "Look into the configuration of the scraper: 'credentials_file', and no token in it; and "
        "into your repositories."
    )


def _haystack(evidence: Evidence, path: str) -> Haystack:
    return Haystack(evidence.answers[path].body.decode(errors="replace"))


def _some(things: Sequence[str]) -> str:
    more = len(things) - MAX_NAMED
    return ", ".join(things[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


ITEMS: Final = (
    Item(
        "hidden",
        "Without a token, its routes look like paths that do not exist.",
        lambda evidence: _hides(evidence.without_token),
    ),
    Item(
        "refused",
        "With a wrong token, they do too.",
        lambda evidence: _hides(evidence.wrong_token),
    ),
    Item("opened", "With the token, each of them answers.", _opens),
    Item("document", "The API document for strangers does not name them.", _document_is_silent),
    Item("encrypted", "The token does not travel where others can read it.", _is_private),
    Item("strong", "The token cannot be guessed.", _is_strong),
    Item("separate", "The token opens telemetry and nothing else.", _is_separate),
    Item("known", "/metrics says what is in the vocabulary and nothing else.", _is_known),
    Item("fields", "/status and /debug/diagnostics have no other fields.", _has_known_fields),
    Item("silent", "No number, message id, address or token is in what they say.", _is_silent),
    Item("unstored", "No cache may keep it.", _is_not_stored),
    Item("clock", "The clock of the service is right.", _has_the_time),
    Item("bounded", "There are no more series than the budget allows.", _is_bounded),
    Item("kept", "The token is in a file or a secret manager, and in no repository.", _is_kept),
    Item(
        "derived",
        "No metric that you make yourself counts single people or messages.",
        _by_hand("Look into your handlers, your telemetry sink and your recording rules."),
    ),
    Item(
        "retained",
        "Who sees scrapes, and for how long, follows your privacy policy.",
        _by_hand("Look at the retention of Prometheus and at who may open its dashboards."),
    ),
    Item(
        "shared",
        "Nothing secret or personal is in public issues and logs.",
        _by_hand("Share what 'wats support-bundle' writes, and no headers, ids or webhook bodies."),
    ),
)
"""The checklist, in the order of its output."""
