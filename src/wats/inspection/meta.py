"""Checks of the connection to Graph and, if permitted, of the app, token and number at Meta.

Without permission, one request without a token finds whether Graph is reachable. With it, three
reads of each number use its access token. All of them have time limits, and a response may be
hostile. A finding shows numbers and words of ours, and no value of Meta's.
"""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from wats.config import NumberConfig, Profile, Secrets
from wats.errors import ConfigError, GraphError
from wats.graph.configured import graph_client
from wats.graph.numbers import BusinessNumber, business_numbers
from wats.inspection.client import NoAnswer, Remote
from wats.inspection.clocks import CLOCK_SECONDS, seconds_apart
from wats.inspection.verdicts import Finding, Judged, Verdict, fails, holds, unknown
from wats.telemetry.contract.values import EndpointFamily, ErrorCategory, Outcome

TIMEOUT_SECONDS: Final = 10.0
"""The time limit of all requests with the token together, and of the one without it."""

SOON_DAYS: Final = 7
SECONDS_PER_DAY: Final = 86_400
SCOPE: Final = "whatsapp_business_messaging"

PROMISES: Final[Mapping[str, str]] = {
    "graph": "Graph is reachable.",
    "time": "The clock of this machine agrees with the clock of Graph.",
    "token": "The access token is valid, may send messages, and does not expire soon.",
    "number": "The business number exists and is connected.",
    "subscribed": "The app is subscribed to the webhooks of the account.",
    "callback": "Meta sends the webhooks of the number to this service.",
}
"""The items and the properties that must hold, in the order of the output."""

WITHOUT_TOKEN: Final = frozenset({"graph", "time"})
"""The items that are checked without the access token."""

_NOT_LIVE: Final = unknown("Use --live to check it with the access token.")
_NO_SECRETS: Final = unknown("The config or a secret is not valid.")
_OTHER_FORM: Final = unknown("Graph's response has another form.")
_FIX_CALLBACK: Final = (
    "Set the callback URL in the webhook settings of the app at Meta, or correct "
    "'service.publicUrl' and 'webhook.path'."
)

Payload: TypeAlias = Mapping[str, Any]
Reading: TypeAlias = Payload | Finding
"""The JSON object of a response, or the finding of a call that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """The responses of Graph to the three reads of a number."""

    token: Reading
    number: Reading
    apps: Reading


def check_meta(profile: Profile | None, secrets: Secrets | None, *, live: bool) -> list[Judged]:
    """Check the connection to Graph and, if *live*, the objects at Meta."""
    findings: dict[str, Finding] = {}
    if profile is not None:
        findings |= _reach(profile)
    if profile is not None and secrets is not None:
        findings |= _judge(profile, secrets) if live else {}
        missing = _NOT_LIVE
    else:
        missing = _NO_SECRETS
    return [Judged(name, text, findings.get(name, missing)) for name, text in PROMISES.items()]


def _reach(profile: Profile) -> dict[str, Finding]:
    if profile.graph.proxy is not None:
        through = unknown("Graph is used through a proxy; use --live to check it.")
        return {"graph": through, "time": through}
    try:
        remote = Remote(profile.graph.base_url, timeout_seconds=TIMEOUT_SECONDS)
        answer = remote.get(f"/{profile.graph.api_version}/")
    except NoAnswer as error:
        reason = error.message.rpartition(": ")[2]
        advice = "Check 'graph.baseUrl', DNS, firewall and TLS certificates of this machine."
        if profile.graph.base_url.startswith("http:"):  # hardly Meta
            advice = "Start the fake Meta with 'wats simulate', or check 'graph.baseUrl'."
        return {
            "graph": fails(f"{reason[:1].upper()}{reason[1:]} {advice}"),
            "time": unknown("Graph does not respond."),
        }
    return {"graph": holds(), "time": _clock(answer.headers.get("date", ""))}


def _clock(date: str) -> Finding:
    try:
        apart = seconds_apart(date, datetime.now(UTC))
    except (ValueError, OverflowError):
        return unknown("Graph's response has no date.")
    if apart > CLOCK_SECONDS:
        return fails(f"The clocks differ by {apart:.0f} s. Synchronize this machine with NTP.")
    return holds()


def _judge(profile: Profile, secrets: Secrets) -> dict[str, Finding]:
    try:
        readings = asyncio.run(_read_all(profile, secrets))
    except ConfigError:
        return dict.fromkeys(PROMISES, unknown("The section 'graph' of the config is not usable."))
    judged = [
        (number.name, _judge_number(number, each, profile))
        for number, each in zip(profile.all_numbers, readings, strict=True)
    ]
    items = judged[0][1]
    found = {item: _together([(name, each[item]) for name, each in judged]) for item in items}
    # A refusal is a response too.
    if any(map(_has_response, readings)):
        return {**found, "graph": holds()}
    if profile.graph.proxy is not None:
        reason = "Graph does not respond through the proxy. Check 'graph.proxy' and its log."
        return {**found, "graph": fails(reason)}
    return found


def _judge_number(number: NumberConfig, readings: Readings, profile: Profile) -> dict[str, Finding]:
    return {
        "token": _token(readings.token),
        "number": _number(readings.number, number.phone_number_id),
        "subscribed": _subscribed(readings.apps, readings.token),
        "callback": _callback(readings.number, readings.apps, profile),
    }


def _together(findings: Sequence[tuple[str, Finding]]) -> Finding:
    """Return the finding of all numbers: that of the first for which the item does not hold."""
    if len(findings) == 1:
        return findings[0][1]
    for verdict in (Verdict.FAILS, Verdict.UNKNOWN):
        worst = [(name, each) for name, each in findings if each.verdict is verdict]
        if worst:
            name, first = worst[0]
            more = f" {len(worst) - 1} other numbers too." if len(worst) > 1 else ""
            return replace(first, note=f"The number '{name}': {first.note}{more}")
    return holds(f"{len(findings)} numbers.")


def _has_response(readings: Readings) -> bool:
    found = (readings.token, readings.number, readings.apps)
    return any(not isinstance(each, Finding) or each.verdict is Verdict.FAILS for each in found)


async def _read_all(profile: Profile, secrets: Secrets) -> Sequence[Readings]:
    """Read the objects of all numbers, in their order."""
    client = graph_client(profile, secrets, _NoTelemetry())
    numbers = business_numbers(profile, secrets, client).all
    await client.start()
    try:
        return await asyncio.gather(*(_read_number(each, secrets) for each in numbers))
    finally:
        await client.close()


async def _read_number(number: BusinessNumber, secrets: Secrets) -> Readings:
    access_token = secrets.access_tokens.get(number.config.name, secrets.access_token)

    def read(*segments: str, **query: str) -> Awaitable[Reading]:
        return _reading(number.graph.call(EndpointFamily.UNKNOWN, "GET", segments, query=query))

    token, found, apps = await asyncio.gather(
        read("debug_token", input_token=access_token.reveal()),
        read(number.id, fields="id,status,webhook_configuration"),
        read(number.config.waba_id, "subscribed_apps"),
    )
    return Readings(token=token, number=found, apps=apps)


async def _reading(call: Awaitable[Any]) -> Reading:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            payload = (await call).payload
    except TimeoutError:
        return unknown(f"Graph did not respond within {TIMEOUT_SECONDS:.0f} s.")
    except GraphError as error:
        if error.is_reported:
            found = error.diagnostics
            return fails(f"Graph refuses the request: {found.name}. {found.advice}")
        return unknown(f"Graph did not respond: {error.cause or 'its response is not usable'}.")
    return payload if isinstance(payload, Mapping) else _OTHER_FORM


def _token(reading: Reading) -> Finding:
    if isinstance(reading, Finding):
        return reading
    data = reading.get("data")
    if not isinstance(data, Mapping) or not isinstance(data.get("is_valid"), bool):
        return _OTHER_FORM
    if not data["is_valid"]:
        return fails("The token is not valid. Create one of a system user, and replace the secret.")
    scopes = data.get("scopes")
    if not isinstance(scopes, Sequence) or SCOPE not in scopes:
        return fails(f"The token lacks the permission '{SCOPE}'. Create one that has it.")
    return _expiry(data.get("expires_at"), is_of_system=data.get("type") == "SYSTEM_USER")


def _expiry(expires_at: object, *, is_of_system: bool) -> Finding:
    kind = "of a system user" if is_of_system else "of a user or an app"
    if not isinstance(expires_at, int) or isinstance(expires_at, bool):
        return _OTHER_FORM
    if expires_at == 0:
        return holds(f"It is {kind}, and does not expire.")
    days = min((expires_at - time.time()) / SECONDS_PER_DAY, 99_999)
    if days < SOON_DAYS:
        when = "has expired" if days <= 0 else f"expires in {days:.1f} days"
        return fails(
            f"The token is {kind}, and {when}. Create one of a system user without expiry."
        )
    return holds(f"It is {kind}, and expires in {days:.0f} days.")


def _number(reading: Reading, phone_number_id: str) -> Finding:
    if isinstance(reading, Finding):
        return reading
    if reading.get("id") != phone_number_id:
        return _OTHER_FORM
    if reading.get("status") not in {"CONNECTED", None}:
        return fails("Its status is not 'CONNECTED'. Register the number, or look it up at Meta.")
    return holds()


def _subscribed(reading: Reading, token: Reading) -> Finding:
    if isinstance(reading, Finding):
        return reading
    if (apps := _apps(reading)) is None:
        return _OTHER_FORM
    if not apps:
        return fails("No app is subscribed. Send POST /WABA_ID/subscribed_apps with the token.")
    data = None if isinstance(token, Finding) else token.get("data")
    own = data.get("app_id") if isinstance(data, Mapping) else None
    if own is None:
        return unknown("Some app is subscribed, but the app of the token is not known.")
    if any(_app_id(app) == str(own) for app in apps):
        return holds()
    return fails(
        "Other apps are subscribed, and the app of the token is not. Send POST "
        "/WABA_ID/subscribed_apps with the token."
    )


def _apps(reading: Payload) -> list[Payload] | None:
    data = reading.get("data")
    if not isinstance(data, list) or not all(isinstance(each, Mapping) for each in data):
        return None
    return data


def _app_id(app: Payload) -> str | None:
    data = app.get("whatsapp_business_api_data")
    return str(data.get("id")) if isinstance(data, Mapping) else None


def _callback(number: Reading, apps: Reading, profile: Profile) -> Finding:
    if isinstance(number, Finding):
        return number
    url = _callback_url(number, apps)
    if url is None:
        return unknown("Graph does not report the callback URL. Look it up in the app at Meta.")
    path = profile.webhook.path
    if url in {f"{base}{path}" for base in (profile.service.public_url, profile.service.local_url)}:
        return holds()
    if profile.service.public_url is None and url.endswith(path):
        return unknown("The path agrees. Set 'service.publicUrl' to compare the host too.")
    return fails(f"Meta sends them elsewhere. {_FIX_CALLBACK}")


def _callback_url(number: Payload, apps: Reading) -> str | None:
    """Return the URL for the number, or else for the account, or else for the app."""
    configured = number.get("webhook_configuration")
    if not isinstance(configured, Mapping):
        configured = {}
    overrides = [] if isinstance(apps, Finding) else _apps(apps) or []
    candidates = [
        configured.get("phone_number"),
        configured.get("whatsapp_business_account"),
        *(each.get("override_callback_uri") for each in overrides),
        configured.get("application"),
    ]
    return next((each for each in candidates if isinstance(each, str) and each), None)


class _NoTelemetry:
    """Records nothing: the calls are not those of a service."""

    def operation(
        self, family: EndpointFamily, status: int, outcome: Outcome, seconds: float, /
    ) -> None:
        """Ignore it."""

    def error(self, category: ErrorCategory, /) -> None:
        """Ignore it."""
