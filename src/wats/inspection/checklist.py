"""The operator's checklist: promises about a service's telemetry, and how to check them. No I/O.

The responses are gathered elsewhere; here they are judged. No finding shows a value from the
service, and none shows the token.
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from wats.config import checks
from wats.inspection.clocks import CLOCK_SECONDS, seconds_apart
from wats.inspection.evidence import HIDDEN, UNREADABLE, Evidence
from wats.inspection.existence_probe import Trial
from wats.inspection.secret_search import Haystack, Needle, SearchMode
from wats.inspection.telemetry_contract import (
    Vocabulary,
    looks_private,
    shown_secrets,
    strings_of,
    unknown_fields,
)
from wats.inspection.verdicts import Finding, fails, holds, some, unknown
from wats.telemetry.contract.families import SERIES, WEBHOOK_REJECTIONS
from wats.telemetry.contract.values import RejectionReason, SeriesCount
from wats.version import __version__
from wats.web.ops.status import Diagnostics, ServiceStatus

SERIES_BUDGET: Final = 4000


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


def _by_hand(note: str) -> Callable[[Evidence], Finding]:
    return lambda _: unknown(note)


_CLOSED: Final = "The token was not accepted by all operator endpoints, so this cannot be checked."


def _if_open(judge: Callable[[Evidence], Finding]) -> Callable[[Evidence], Finding]:
    """Pass *judge* only readable evidence with all three responses; fail the item otherwise."""

    def judged(evidence: Evidence) -> Finding:
        if not evidence.is_open:
            return unknown(_CLOSED)
        try:
            return judge(evidence)
        except UNREADABLE:
            return fails("The response cannot be parsed; it is not from wats.")

    return judged


def _hides(trials: Sequence[Trial]) -> Finding:
    differences = [each for trial in trials for each in trial.differences()]
    if differences:
        return fails(f"The responses differ for {some(differences)}.")
    if any(trial.is_vague() for trial in trials):
        return unknown(
            "Two paths that do not exist get different responses, so a proxy may have changed "
            "them. Repeat the check without the proxy."
        )
    return holds(f"Compared {len(trials)} kinds of requests.")


def _opens(evidence: Evidence) -> Finding:
    if not evidence.answers:
        return unknown("The token was not sent, because the connection is not encrypted.")
    statuses = {path: evidence.answers[path].status for path in HIDDEN}
    closed = [f"{path} ({status})" for path, status in statuses.items() if status != 200]
    if not closed:
        return holds()
    return fails(
        f"Not 200: {some(closed)}. A 404 means that the token is not valid, that a proxy "
        "removes it, or that another gateway has the address."
    )


def _document_is_silent(evidence: Evidence) -> Finding:
    if evidence.document.status != 200:
        return holds("The API document is not served without a token.")
    named = [path for path in HIDDEN if path.encode() in evidence.document.body]
    return fails(f"It names {some(named)}.") if named else holds()


def _is_private(evidence: Evidence) -> Finding:
    address = ipaddress.ip_address(evidence.address.partition("%")[0])
    if evidence.is_encrypted:
        return holds("The connection uses TLS.")
    if address.is_loopback:
        return holds("Plain HTTP over loopback. Check the connection of the scraper too.")
    if address.is_global:
        return fails("Plain HTTP to a public address. Put a TLS proxy in front.")
    return unknown("Plain HTTP to a private address. Make sure that the network is trusted.")


def _is_strong(evidence: Evidence) -> Finding:
    rule = checks.bearer_token
    if rule.accept(evidence.token.reveal()) is None:
        return fails(f"A token must be {rule.expects}.")
    return holds("The token is long enough. Randomness cannot be checked.")


def _is_separate(evidence: Evidence) -> Finding:
    if evidence.api is None:
        return unknown(
            "The API was not checked. With this token, a GET of an API route must return 403."
        )
    if evidence.api.status in {401, 403}:  # either way, the token opens nothing
        return holds("The API rejects the token.")
    if evidence.api.status == 405:
        return fails(
            "The token is valid for the API too, so a scraper could send messages. Configure a "
            "separate 'telemetry.bearerToken' for the scraper."
        )
    return unknown(
        "The API is not reachable here. With this token, a GET of an API route must return 403."
    )


@_if_open
def _is_known(evidence: Evidence) -> Finding:
    objections = Vocabulary(evidence.status).objections(evidence.samples)
    if objections:
        return _deviates(evidence, objections)
    return holds(f"Compared {len(evidence.samples)} samples.")


@_if_open
def _has_known_fields(evidence: Evidence) -> Finding:
    diagnostics = evidence.document_of("/debug/diagnostics")
    found = [
        *(
            f"in /status {each}"
            for each in unknown_fields(evidence.document_of("/status"), ServiceStatus)
        ),
        *(f"in the diagnostics {each}" for each in unknown_fields(diagnostics, Diagnostics)),
    ]
    if found:
        return _deviates(evidence, found)
    shown = shown_secrets(diagnostics["configShape"])
    return fails(f"The diagnostics show {some(shown)}.") if shown else holds()


def _deviates(evidence: Evidence, found: Sequence[str]) -> Finding:
    status = evidence.document_of("/status")
    if isinstance(status, dict) and status.get("version", __version__) != __version__:
        return unknown(
            "The service has another version than this command; use the command of that version."
        )
    return fails(f"Found: {some(found)}.")


@_if_open
def _is_silent(evidence: Evidence) -> Finding:
    sought = [Needle("the token", evidence.token, SearchMode.SECRET), *evidence.sought]
    leaks = [
        f"{path}: {key}" for path in HIDDEN for key in _haystack(evidence, path).keys_of(sought)
    ]
    strings_by_path = {
        "/metrics": (value for _, labels, _ in evidence.samples for _, value in labels),
        **{path: strings_of(evidence.document_of(path)) for path in HIDDEN[1:]},
    }
    for path, strings in strings_by_path.items():
        kinds = dict.fromkeys(kind for text in set(strings) for kind in looks_private(text))
        leaks += [f"{path}: {kind}" for kind in sorted(kinds)]
    return fails(f"Found: {some(leaks)}.") if leaks else holds()


@_if_open
def _is_not_stored(evidence: Evidence) -> Finding:
    stored = [
        path
        for path in HIDDEN
        if "no-store" not in evidence.answers[path].headers.get("cache-control", "")
    ]
    return fails(f"No 'Cache-Control: no-store' at {some(stored)}.") if stored else holds()


@_if_open
def _has_the_secret(evidence: Evidence) -> Finding:
    if not evidence.samples.has(WEBHOOK_REJECTIONS.name):
        return unknown("The service does not count rejected webhooks.")
    reason = RejectionReason.SIGNATURE_MISMATCH
    count = evidence.samples.total(WEBHOOK_REJECTIONS.name, reason=reason)
    if not count:
        return holds()
    return fails(
        f"{count:.0f} since the start of the service. If the app secret was changed at Meta, add "
        "the new one to 'webhook.appSecret'; else a proxy changes bodies, or a client forges them."
    )


@_if_open
def _has_the_time(evidence: Evidence) -> Finding:
    date = evidence.answers["/status"].headers.get("date", "")
    apart = seconds_apart(date, evidence.asked_at)
    if apart > CLOCK_SECONDS:
        return fails(f"The clocks of the service and of this machine differ by {apart:.0f} s.")
    return holds()


@_if_open
def _is_bounded(evidence: Evidence) -> Finding:
    live = len(evidence.samples)
    exposed = evidence.samples.total(SERIES.name, kind=SeriesCount.BUDGET)
    budget = exposed or SERIES_BUDGET
    if live > budget:
        return fails(f"{live} series exceed the budget of {budget:.0f}.")
    return holds(f"{live} series, at most {budget:.0f} allowed.")


def _is_kept(evidence: Evidence) -> Finding:
    mode = evidence.token_file_mode
    if mode is not None and mode & 0o007:
        return fails(
            "The token file is accessible to all users of this machine; restrict its mode."
        )
    return unknown(
        "Check that the scraper's configuration uses 'credentials_file' and contains no token, and "
        "that no repository contains one."
    )


def _haystack(evidence: Evidence, path: str) -> Haystack:
    return Haystack(evidence.answers[path].body.decode(errors="replace"))


ITEMS: Final = (
    Item(
        "hidden",
        "Without a token, operator endpoints look like nonexistent paths.",
        lambda evidence: _hides(evidence.without_token),
    ),
    Item(
        "refused",
        "With a wrong token, operator endpoints look like nonexistent paths.",
        lambda evidence: _hides(evidence.wrong_token),
    ),
    Item("opened", "With the token, every operator endpoint responds.", _opens),
    Item(
        "document",
        "Without a token, the API document does not list operator endpoints.",
        _document_is_silent,
    ),
    Item("encrypted", "The token is sent over an encrypted or local connection only.", _is_private),
    Item("strong", "The token cannot be guessed.", _is_strong),
    Item("separate", "The token is valid for telemetry only.", _is_separate),
    Item("known", "/metrics has documented families, labels and label values only.", _is_known),
    Item(
        "fields", "/status and /debug/diagnostics have documented fields only.", _has_known_fields
    ),
    Item("silent", "Responses contain no phone number, message id, address or token.", _is_silent),
    Item("unstored", "Responses must not be cached.", _is_not_stored),
    Item(
        "signed",
        "No webhook has a signature that matches no configured app secret.",
        _has_the_secret,
    ),
    Item("clock", "The clock of the service is correct.", _has_the_time),
    Item("bounded", "The number of series is within the budget.", _is_bounded),
    Item("kept", "The token is stored in a file or secret manager, not in a repository.", _is_kept),
    Item(
        "derived",
        "No custom metric identifies single people or messages.",
        _by_hand("Review your handlers, telemetry sink and recording rules."),
    ),
    Item(
        "retained",
        "Access to scraped data and its retention follow your privacy policy.",
        _by_hand("Check the retention of Prometheus and the access to its dashboards."),
    ),
    Item(
        "shared",
        "Public issues and logs contain no secrets or personal data.",
        _by_hand(
            "Share the output of 'wats support-bundle', never headers, ids or webhook bodies."
        ),
    ),
)
"""The checklist, in the order of its output."""
