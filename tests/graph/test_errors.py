import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.errors import GraphCause, GraphRefused
from wats.graph.errors import ADVICE, ERROR_NAMES, RULES, Action, classify
from wats.telemetry.contract.values import ErrorCategory

# The codes whose class depends on the status; test_error_table.py has all of them.
AUTH = {
    0: "AuthException",
    3: "APIMethodError",
    10: "PermissionDeniedError",
    190: "ExpiredAccessTokenError",
    200: "APIPermissionError",
}
RATE = {
    4: "ToManyAPICallsError",
    80007: "RateLimitIssuesError",
    130429: "RateLimitHitError",
    131048: "SpamRateLimitHitError",
    131056: "TooManyMessagesError",
}
RETRIED = (1, 2, 4, 80007, 130429, 131000, 131016, 131056, 131057, 133016, 135000)
NOT_RETRIED = (
    *(100, 131008, 131009, 131051, 132000, 132001, 132005, 132007, 132012, 132018),
    *(131048, 131031, 131064, 368, 131047, 131021, 131026, 131030, 131050, 130472, 131049),
    *(0, 3, 10, 190, 200, 250, 131005, 131045, 131042, 132015, 132016, 131062, 131063),
)


def refused(status: int, error: object, **headers: str) -> GraphRefused:
    body = json.dumps({"error": error}).encode()
    return classify(status, {name.replace("_", "-"): text for name, text in headers.items()}, body)


def test_a_code_is_in_the_table_once() -> None:
    assert len({(rule.code, rule.subcode) for rule in RULES}) == len(RULES)


def test_every_action_has_advice_and_is_used() -> None:
    assert {rule.action for rule in RULES} == set(Action) == set(ADVICE)
    assert all(rule.advice.endswith(".") for rule in RULES)


@pytest.mark.parametrize("code", RETRIED)
def test_a_temporary_failure_is_retryable(code: int) -> None:
    assert refused(400, {"code": code}).diagnostics.retryable


@pytest.mark.parametrize("code", NOT_RETRIED)
def test_a_failure_that_needs_a_change_is_not_retryable(code: int) -> None:
    assert not refused(400, {"code": code}).diagnostics.retryable


@pytest.mark.parametrize("code", [201, 250, 299])
def test_a_code_of_the_permission_range_is_an_authorization_error(code: int) -> None:
    diagnostics = refused(403, {"code": code}).diagnostics

    assert diagnostics.name == "APIPermissionError"
    assert diagnostics.category == ErrorCategory.AUTHORIZATION


def test_a_subcode_is_looked_up_before_its_code() -> None:
    assert refused(400, {"code": 100, "error_subcode": 33}).diagnostics.name == "ObjectMissingError"
    assert refused(400, {"code": 100, "error_subcode": 34}).diagnostics.name == (
        "InvalidParameterError"
    )


def test_a_template_creation_subcode_is_a_template_error() -> None:
    diagnostics = refused(400, {"code": 100, "error_subcode": 2388023}).diagnostics

    assert diagnostics.name == "TemplateCreationError"
    assert diagnostics.category == ErrorCategory.TEMPLATE


@pytest.mark.parametrize("code", RATE)
@pytest.mark.parametrize(("status", "is_throttled"), [(400, True), (429, True), (500, False)])
def test_a_throttling_code_throttles_only_with_a_client_error_status(
    code: int, status: int, is_throttled: bool
) -> None:
    error = refused(status, {"code": code})

    assert error.throttled is is_throttled
    assert error.diagnostics.name == (RATE[code] if is_throttled else "GraphApiError")


@pytest.mark.parametrize("code", AUTH.keys() - {190})
def test_an_authorization_code_needs_a_status_about_authorization(code: int) -> None:
    assert refused(400, {"code": code}).diagnostics.name == "GraphApiError"
    assert refused(401, {"code": code}).diagnostics.name == AUTH[code]
    assert refused(403, {"code": code}).diagnostics.name == AUTH[code]
    assert refused(400, {"code": code, "type": "OAuthException"}).diagnostics.name == AUTH[code]


def test_an_expired_token_is_recognized_by_its_code_alone() -> None:
    assert refused(400, {"code": 190}).diagnostics.name == "ExpiredAccessTokenError"


@pytest.mark.parametrize(
    ("status", "error", "name"),
    [
        pytest.param(400, {"code": 999}, "GraphApiError", id="plain"),
        pytest.param(401, {"code": 999}, "GraphAuthError", id="401"),
        pytest.param(400, {"code": 999, "type": "OAuthException"}, "GraphAuthError", id="oauth"),
        pytest.param(429, {"code": 999}, "GraphRateLimitError", id="429"),
        pytest.param(500, {"code": 999, "type": "OAuthException"}, "GraphApiError", id="500"),
    ],
)
def test_an_unknown_code_is_named_by_its_response(
    status: int, error: dict[str, Any], name: str
) -> None:
    assert refused(status, error).diagnostics.name == name


def test_429_is_a_rate_limit_for_every_error_code() -> None:
    error = refused(429, {"code": 80008, "type": "OAuthException"}, Retry_After="30")

    assert error.throttled
    assert error.retry_after == "30"
    assert error.diagnostics.name == "GraphRateLimitError"
    assert error.diagnostics.category == ErrorCategory.THROTTLING


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<html>busy</html>", id="html"),
        pytest.param(b"", id="empty"),
        pytest.param(b'{"error":{"code":100}}', id="another-code"),
        pytest.param(b'{"error":"text"}', id="text"),
        pytest.param(b"\xff\xfe", id="no-utf8"),
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_429_is_a_retryable_rate_limit_for_every_body(body: bytes) -> None:
    error = classify(429, {"Retry-After": "5"}, body)

    assert (error.throttled, error.retry_after) == (True, "5")
    assert error.diagnostics.retryable


def test_a_spam_limit_is_not_retryable_even_with_429() -> None:
    assert not refused(429, {"code": 131048}).diagnostics.retryable


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (500, True), (502, True)])
def test_a_response_without_an_error_is_classified_by_its_status(
    status: int, retryable: bool
) -> None:
    error = classify(status, {}, b"<html></html>")

    assert error.upstream_status == status
    assert error.diagnostics.retryable is retryable
    assert error.diagnostics.name == "GraphApiError"
    assert error.diagnostics.category == ErrorCategory.UNKNOWN


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        pytest.param(" 120 ", "120", id="trimmed"),
        pytest.param("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", id="date"),
        pytest.param("", None, id="empty"),
        pytest.param("9" * 6, "9" * 6, id="days"),
        pytest.param("9" * 7, None, id="as-long-as-a-phone-number"),
        pytest.param("when Jane answers", None, id="text"),
        pytest.param("1\x002", None, id="control"),
        pytest.param("12é", None, id="not-ascii"),
    ],
)
@pytest.mark.parametrize("status", [400, 429, 503])
def test_retry_after_is_kept_if_it_is_seconds_or_a_date(
    status: int, sent: str, kept: str | None
) -> None:
    assert classify(status, {"RETRY-after": sent}, b"").retry_after == kept


USAGE = "X-Business-Use-Case-Usage"


def usage(*minutes: object, kind: str = "whatsapp") -> str:
    uses = [{"type": kind, "estimated_time_to_regain_access": each} for each in minutes]
    return json.dumps({"123456789012345": uses})


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        pytest.param(usage(17), "1020", id="minutes"),
        pytest.param(usage(3, 17, 0), "1020", id="the-longest"),
        pytest.param(usage(0), None, id="none"),
        pytest.param(usage(9_999_999), "999999", id="bounded"),
        pytest.param(usage("x", None, -4, [1]), None, id="other-types"),
        pytest.param("{}", None, id="empty"),
        pytest.param('{"1":[5]}', None, id="no-object"),
        pytest.param('{"1":{"a":1}}', None, id="no-list"),
        pytest.param("[1]", None, id="no-mapping"),
        pytest.param("Jane", None, id="no-json"),
        pytest.param("\ud800", None, id="no-text"),
    ],
)
def test_the_time_to_regain_access_becomes_retry_after(sent: str, kept: str | None) -> None:
    body = b'{"error":{"code":80007}}'

    assert classify(400, {USAGE: sent}, body).retry_after == kept
    assert classify(400, {USAGE: sent, "Retry-After": "7"}, body).retry_after == "7"


def test_the_usage_of_an_account_that_is_not_throttled_is_no_reason_to_wait() -> None:
    assert classify(400, {USAGE: usage(17)}, b'{"error":{"code":131026}}').retry_after is None


@pytest.mark.parametrize(
    "text",
    [
        "API calls from the server require an appsecret_proof argument",
        "Invalid appsecret_proof provided in the API argument",
    ],
)
def test_a_missing_or_wrong_app_secret_proof_is_a_matter_of_access(text: str) -> None:
    error = {"code": 100, "type": "GraphMethodException", "message": text}

    diagnostics = refused(400, error).diagnostics

    assert (diagnostics.name, diagnostics.category) == ("AppSecretProofError", "authorization")
    assert "app secret" in diagnostics.advice


@pytest.mark.parametrize(
    ("status", "body", "advice"),
    [
        (400, b'{"error":{"code":131047}}', Action.USE_TEMPLATE),
        (401, b"<html>", Action.FIX_ACCESS),
        (404, b"<html>", Action.INSPECT),
        (502, b"<html>", Action.RETRY),
        (429, b"<html>", Action.RETRY),
        (429, b'{"error":{"code":131048}}', Action.PAUSE_NUMBER),
        (429, b'{"error":{"code":131026}}', Action.RETRY),
    ],
)
def test_every_refusal_has_advice(status: int, body: bytes, advice: Action) -> None:
    assert classify(status, {}, body).diagnostics.advice == ADVICE[advice]


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (502, b"<html>", GraphCause.PROXY),
        (404, b'{"code":404}', GraphCause.PROXY),
        (400, b'{"error":{"code":131026}}', None),
    ],
)
def test_a_response_without_a_code_of_graph_is_from_a_proxy(
    status: int, body: bytes, cause: GraphCause | None
) -> None:
    assert classify(status, {}, body).cause is cause


@pytest.mark.parametrize(
    ("error", "code", "subcode"),
    [
        pytest.param({"code": "131047", "error_subcode": "2494055"}, 131047, 2494055, id="text"),
        pytest.param({"code": 131047.0}, 131047, None, id="float"),
        pytest.param({"code": 131047, "error_subcode": "x"}, 131047, None, id="one-bad"),
        pytest.param({"code": True, "error_subcode": []}, None, None, id="other-types"),
        pytest.param({"code": -1, "error_subcode": 1.5}, None, None, id="no-codes"),
        pytest.param({"code": 15550002222, "error_subcode": "15550002222"}, None, None, id="phone"),
        pytest.param({"code": 10**40}, None, None, id="huge"),
    ],
)
def test_a_number_of_the_wrong_type_loses_only_itself(
    error: dict[str, Any], code: int | None, subcode: int | None
) -> None:
    diagnostics = refused(400, {**error, "type": "OAuthException"}).diagnostics

    assert (diagnostics.meta_code, diagnostics.meta_subcode) == (code, subcode)
    assert diagnostics.meta_type == "OAuthException"


@pytest.mark.parametrize(
    ("field", "sent", "is_kept"),
    [
        ("type", "GraphMethodException", True),
        ("type", "x" * 55 + "Exception", True),
        ("type", "x" * 56 + "Exception", False),
        ("type", "InternalError", True),
        ("type", "Jane", False),
        ("type", "Jane Doe Exception", False),
        ("type", "call15550002222Exception", False),
        ("type", 5, False),
        ("fbtrace_id", "AfGXGJ_ZYxj1x7dcGpVJ5-5", True),
        ("fbtrace_id", "A" * 65, False),
        ("fbtrace_id", "15550002222", False),
        ("fbtrace_id", "to15550002222", False),
        ("fbtrace_id", "wamid.HBgL", False),
        ("fbtrace_id", "a b", False),
        ("fbtrace_id", "a\n", False),
        ("fbtrace_id", None, False),
    ],
)
def test_a_name_is_kept_only_if_it_looks_like_one(field: str, sent: object, is_kept: bool) -> None:
    diagnostics = refused(400, {"code": 100, field: sent}).diagnostics

    kept = diagnostics.meta_type if field == "type" else diagnostics.fbtrace_id
    assert kept == (sent if is_kept else None)
    assert diagnostics.meta_code == 100


def test_a_bare_error_object_is_reported_and_not_believed() -> None:
    error = classify(400, {}, b'{"message":"x","code":131056,"type":"OAuthException"}')

    assert error.diagnostics.meta_code == 131056
    assert error.diagnostics.meta_type == "OAuthException"
    assert error.diagnostics.name == "GraphApiError"
    assert not error.throttled


def test_no_text_that_meta_wrote_survives() -> None:
    secret = "Jane 15550002222"
    error = refused(
        400,
        {
            "code": 131026,
            "message": secret,
            "type": secret,
            "error_user_title": secret,
            "error_user_msg": secret,
            "error_data": {"details": secret},
            "fbtrace_id": secret,
        },
    )

    shown = f"{error!r} {error} {error.diagnostics!r} {vars(error)!r}"

    assert "Jane" not in shown
    assert "15550002222" not in shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ERRORS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("code", "error_subcode", "type", "fbtrace_id", "message"), JSON)
)


@given(
    status=st.integers(300, 599),
    body=st.binary() | JSON.map(lambda value: json.dumps(value).encode()),
    headers=st.dictionaries(st.just("retry-after"), st.text()),
)
def test_every_response_can_be_classified(
    status: int, body: bytes, headers: Mapping[str, str]
) -> None:
    assert classify(status, headers, body).upstream_status == status


@given(status=st.integers(300, 599), error=ERRORS)
def test_every_error_object_gets_a_known_name_and_category(
    status: int, error: dict[str, Any]
) -> None:
    diagnostics = refused(status, error).diagnostics

    assert diagnostics.name in ERROR_NAMES
    assert diagnostics.category in set(ErrorCategory)


CERTAIN_CODES = sorted({rule.code for rule in RULES if rule.gives_reason})
UNCERTAIN_CODES = sorted({rule.code for rule in RULES if not rule.gives_reason})


@pytest.mark.parametrize("status", [302, 408, 499, 500, 502, 503, 504])
def test_only_a_listed_code_that_gives_a_reason_is_certain_without_a_client_error(
    status: int,
) -> None:
    certain = [code for code in CERTAIN_CODES if refused(status, {"code": code}).is_certain]
    uncertain = [code for code in UNCERTAIN_CODES if refused(status, {"code": code}).is_certain]

    assert (certain, uncertain) == (CERTAIN_CODES, [])
    assert not refused(status, {"code": status}).is_certain
    assert not classify(status, {}, b'{"code":131026}').is_certain


def test_failures_inside_meta_give_no_reason() -> None:
    assert {1, 2, 131000, 131016, 135000} <= set(UNCERTAIN_CODES)


@given(
    status=st.integers(400, 498).filter(lambda status: status != 408),
    body=st.binary() | st.sampled_from([b'{"error":{"code":1}}', b'{"error":{"code":131000}}']),
)
def test_a_client_error_is_certain_for_any_body(status: int, body: bytes) -> None:
    assert classify(status, {}, body).is_certain
