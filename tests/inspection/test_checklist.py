import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from wats.inspection.answer import Answer
from wats.inspection.checklist import ITEMS
from wats.inspection.evidence import HIDDEN, Evidence
from wats.inspection.existence_probe import Trial
from wats.inspection.secret_search import Needle, SearchMode
from wats.inspection.verdicts import Finding, Verdict
from wats.privacy import REDACTED, Secret
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import Method, RejectionReason, RouteLabel
from wats.version import __version__
from wats.web.ops.status import (
    AuthShape,
    ConfigShape,
    Diagnostics,
    FeatureFlags,
    GraphShape,
    ServiceShape,
    ServiceStatus,
    StoreView,
    WebhookShape,
)

TOKEN = "a-telemetry-token-for-tests"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DATE = "Sun, 22 Nov 2026 12:00:00 GMT"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}"
FLAGS = FeatureFlags(group_routes=False, persistence=True)
STORE = StoreView(ok=True, backend="sqlite", current_version=1, redacted_location=REDACTED)


def status(**changes: Any) -> bytes:
    fields = {
        "service": "wats",
        "version": __version__,
        "uptime_seconds": 1,
        "graph_api_version": "v25.0",
        "service_mode": "webhook",
        "routes": ("/metrics", "/webhook"),
        "feature_flags": FLAGS,
        "persistence": STORE,
    }
    return msgspec.json.encode(ServiceStatus(**{**fields, **changes}))


def diagnostics(**changes: Any) -> bytes:
    shape = ConfigShape(
        graph=GraphShape(api_version="v25.0"),
        auth=AuthShape(access_token=REDACTED),
        service=ServiceShape(host="127.0.0.1", port=8787, api_prefix="/api"),
        webhook=WebhookShape(
            path="/webhook", verify_token=REDACTED, app_secret=REDACTED, max_body_bytes=3_145_728
        ),
    )
    fields = {
        "service": "wats",
        "version": __version__,
        "graph_api_version": "v25.0",
        "service_mode": "webhook",
        "runtime": "python",
        "routes": ("/metrics", "/webhook"),
        "feature_flags": FLAGS,
        "persistence": STORE,
        "metric_families": ("http_requests_total",),
        "recent_errors": {"TimeoutError": 2},
        "config_shape": shape,
    }
    return msgspec.json.encode(Diagnostics(**{**fields, **changes}))


def metrics(more: str = "") -> bytes:
    routes = [RouteLabel(each, (Method.GET,)) for each in ("/metrics", "/webhook", "unmatched")]
    telemetry = Telemetry(routes=routes, adapter=None)
    telemetry.http.request(0, Method.GET, 200, 0.01)
    return telemetry.render().body + more.encode()


def unsigned() -> bytes:
    telemetry = Telemetry(routes=[RouteLabel("unmatched")], adapter=None)
    telemetry.webhooks.rejected(RejectionReason.SIGNATURE_MISMATCH)
    return telemetry.render().body


def answer(body: bytes, code: int = 200, **headers: str) -> Answer:
    named = {"cache-control": "no-store", "date": DATE, **headers}
    return Answer(code, named, body)


def answers(**changes: Answer) -> dict[str, Answer]:
    whole = {
        "/metrics": answer(metrics()),
        "/status": answer(status()),
        "/debug/diagnostics": answer(diagnostics()),
    }
    return whole | {path: changes[path[1:]] for path in whole if path[1:] in changes}


def trial(**hidden: bytes) -> Trial:
    paths = dict.fromkeys(HIDDEN, NOT_FOUND)
    return Trial(
        "GET", (NOT_FOUND, NOT_FOUND), paths | {f"/{name}": hidden[name] for name in hidden}
    )


GOOD = Evidence(
    is_encrypted=True,
    address="203.0.113.7",
    token=Secret(TOKEN),
    sought=(Needle("whatsapp.wabaId", Secret("482915037612945"), SearchMode.NUMBER),),
    token_file_mode=0o600,
    without_token=(trial(),),
    wrong_token=(trial(), trial()),
    answers=answers(),
    api=answer(b"{}", 401),
    document=answer(b'{"paths": {"/webhook": {}}}'),
    asked_at=NOW,
)


def judged(evidence: Evidence) -> Mapping[str, Finding]:
    return {item.name: item.judge(evidence) for item in ITEMS}


def not_holding(evidence: Evidence) -> dict[str, Verdict]:
    by_hand = {"kept", "derived", "retained", "shared"}
    return {
        name: found.verdict
        for name, found in judged(evidence).items()
        if found.verdict is not Verdict.HOLDS and name not in by_hand
    }


def test_a_correct_service_passes_every_check_made_from_outside() -> None:
    assert not_holding(GOOD) == {}
    assert {name for name, found in judged(GOOD).items() if found.verdict is Verdict.UNKNOWN} == {
        "kept",
        "derived",
        "retained",
        "shared",
    }


def test_every_failed_check_names_its_remedy() -> None:
    for found in judged(replace(GOOD, answers={}, api=None)).values():
        assert found.verdict is Verdict.HOLDS or found.note.endswith(".")


LEAKY = 'http_requests_total{method="GET",route="/metrics",status_class="2xx",phone="1"} 1\n'
NUMBER = 'http_requests_total{method="GET",route="15550001234",status_class="2xx"} 1\n'
EXCERPTS = "".join(f'x_total{{n="{number}"}} 1\n' for number in range(4001))

CASES: dict[str, tuple[Callable[[], Evidence], dict[str, Verdict]]] = {
    "another status without a token": (
        lambda: replace(GOOD, without_token=(trial(metrics=NOT_FOUND.replace(b"404", b"401")),)),
        {"hidden": Verdict.FAILS},
    ),
    "another body with a wrong token": (
        lambda: replace(GOOD, wrong_token=(trial(), trial(status=NOT_FOUND + b" "))),
        {"refused": Verdict.FAILS},
    ),
    "a proxy with a page of its own": (
        lambda: replace(
            GOOD,
            without_token=(Trial("GET", (NOT_FOUND, NOT_FOUND + b"1"), {"/status": NOT_FOUND}),),
        ),
        {"hidden": Verdict.UNKNOWN},
    ),
    "a webhook with the signature of no app secret": (
        lambda: replace(GOOD, answers=answers(metrics=answer(unsigned()))),
        {"signed": Verdict.FAILS},
    ),
    "a document that names what is hidden": (
        lambda: replace(GOOD, document=answer(b'{"paths": {"/status": {}}}')),
        {"document": Verdict.FAILS},
    ),
    "plain HTTP at a public address": (
        lambda: replace(GOOD, is_encrypted=False, address="9.9.9.9"),
        {"encrypted": Verdict.FAILS},
    ),
    "plain HTTP in a private network": (
        lambda: replace(GOOD, is_encrypted=False, address="10.0.0.7"),
        {"encrypted": Verdict.UNKNOWN},
    ),
    "a short token": (
        lambda: replace(GOOD, token=Secret("hunter2")),
        {"strong": Verdict.FAILS},
    ),
    "a token that opens the API": (
        lambda: replace(GOOD, api=answer(b"{}", 405)),
        {"separate": Verdict.FAILS},
    ),
    "an API that is not reached": (
        lambda: replace(GOOD, api=answer(b"{}", 404)),
        {"separate": Verdict.UNKNOWN},
    ),
    "a family of another service": (
        lambda: replace(GOOD, answers=answers(metrics=answer(metrics("process_start 1\n")))),
        {"known": Verdict.FAILS},
    ),
    "a label of another service": (
        lambda: replace(GOOD, answers=answers(metrics=answer(metrics(LEAKY)))),
        {"known": Verdict.FAILS},
    ),
    "a phone number as a label value": (
        lambda: replace(GOOD, answers=answers(metrics=answer(metrics(NUMBER)))),
        {"known": Verdict.FAILS, "silent": Verdict.FAILS},
    ),
    "a service of another version": (
        lambda: replace(
            GOOD,
            answers=answers(
                metrics=answer(metrics("new_total 1\n")),
                status=answer(status(version="99.0.0")[:-1] + b',"newField":1}'),
            ),
        ),
        {"known": Verdict.UNKNOWN, "fields": Verdict.UNKNOWN},
    ),
    "a field more in the status": (
        lambda: replace(
            GOOD, answers=answers(status=answer(status()[:-1] + b',"databasePath":"/x"}'))
        ),
        {"fields": Verdict.FAILS},
    ),
    "a secret in the diagnostics": (
        lambda: replace(
            GOOD,
            answers=answers(
                **{
                    "debug/diagnostics": answer(
                        diagnostics().replace(b'"appSecret":"[REDACTED]"', b'"appSecret":"x"')
                    )
                }
            ),
        ),
        {"fields": Verdict.FAILS},
    ),
    "a message id in an error": (
        lambda: replace(
            GOOD,
            answers=answers(
                **{"debug/diagnostics": answer(diagnostics(recent_errors={"wamid.x": 1}))}
            ),
        ),
        {"silent": Verdict.FAILS},
    ),
    "the token itself": (
        lambda: replace(GOOD, answers=answers(status=answer(status(service_mode=TOKEN)))),
        {"silent": Verdict.FAILS},
    ),
    "an id of the config": (
        lambda: replace(
            GOOD, answers=answers(metrics=answer(metrics() + b"# HELP x 4829-1503-7612-945\n"))
        ),
        {"silent": Verdict.FAILS},
    ),
    "an answer that may be kept": (
        lambda: replace(
            GOOD, answers=answers(metrics=answer(metrics(), **{"cache-control": "max-age=60"}))
        ),
        {"unstored": Verdict.FAILS},
    ),
    "a clock that is wrong": (
        lambda: replace(
            GOOD,
            answers=answers(status=answer(status(), date="Sun, 22 Nov 2026 12:01:00 GMT")),
        ),
        {"clock": Verdict.FAILS},
    ),
    "series without end": (
        lambda: replace(GOOD, answers=answers(metrics=answer(metrics(EXCERPTS)))),
        {"known": Verdict.FAILS, "bounded": Verdict.FAILS},
    ),
    "something that is no wats": (
        lambda: replace(GOOD, answers=dict.fromkeys(HIDDEN, answer(b"<html>"))),
        dict.fromkeys(("known", "fields", "silent", "signed", "bounded"), Verdict.FAILS),
    ),
    "a token that does not fit": (
        lambda: replace(GOOD, answers=dict.fromkeys(HIDDEN, answer(b"{}", 404))),
        {
            "opened": Verdict.FAILS,
            **dict.fromkeys(
                ("known", "fields", "silent", "unstored", "signed", "clock", "bounded"),
                Verdict.UNKNOWN,
            ),
        },
    ),
    "a token that was not sent": (
        lambda: replace(GOOD, answers={}, api=None),
        dict.fromkeys(
            (
                *("opened", "separate", "known", "fields", "silent"),
                *("unstored", "signed", "clock", "bounded"),
            ),
            Verdict.UNKNOWN,
        ),
    ),
}


@pytest.mark.parametrize(("evidence", "expected"), CASES.values(), ids=CASES)
def test_each_fault_of_a_service_fails_its_own_check_only(evidence, expected) -> None:
    assert not_holding(evidence()) == expected


def test_every_item_that_can_fail_fails_in_some_case() -> None:
    failing = {
        name
        for _, expected in CASES.values()
        for name, verdict in expected.items()
        if verdict is Verdict.FAILS
    }

    assert failing | {"kept", "derived", "retained", "shared"} == {item.name for item in ITEMS}


def test_a_field_is_named_as_it_is_written() -> None:
    changed = answer(status().replace(b'"groupRoutes":', b'"other":'))

    found = judged(replace(GOOD, answers=answers(status=changed)))["fields"]

    assert "/status featureFlags.groupRoutes is missing" in found.note


def test_no_finding_shows_a_part_of_a_response() -> None:
    leaks = replace(
        GOOD,
        answers=answers(
            metrics=answer(metrics(NUMBER + LEAKY + 'canary_total{canary="15550009876"} 1\n')),
            status=answer(status()[:-1] + b',"canary":"ada@example.org"}'),
        ),
        without_token=(trial(status=b"HTTP/1.1 200 canary\r\n\r\ncanary"),),
    )

    result = json.dumps([found.note for found in judged(leaks).values()])

    for word in ("15550001234", "15550009876", "canary", "example.org", TOKEN):
        assert word not in result


@pytest.mark.parametrize(
    ("mode", "verdict"),
    [(None, Verdict.UNKNOWN), (0o640, Verdict.UNKNOWN), (0o644, Verdict.FAILS)],
)
def test_a_token_that_everybody_may_read_is_not_kept(mode, verdict) -> None:
    assert judged(replace(GOOD, token_file_mode=mode))["kept"].verdict is verdict


def test_on_loopback_plain_http_is_accepted() -> None:
    local = replace(GOOD, is_encrypted=False, address="::1")

    assert judged(local)["encrypted"].verdict is Verdict.HOLDS


def test_a_service_may_hide_its_documents_from_unauthenticated_clients() -> None:
    assert judged(replace(GOOD, document=answer(b"", 404)))["document"].verdict is Verdict.HOLDS


def test_a_service_that_does_not_count_rejections_leaves_it_unknown() -> None:
    old = replace(GOOD, answers=answers(metrics=answer(b"http_requests_total 1\n")))

    assert judged(old)["signed"].verdict is Verdict.UNKNOWN
