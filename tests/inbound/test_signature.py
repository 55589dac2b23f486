import hashlib
import hmac
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.errors import WebhookRefused
from wats.inbound.signature import SignatureCheck, answer_challenge
from wats.privacy import Secret

BODY = b'{"object":"whatsapp_business_account","entry":[]}'
NEW, OLD = Secret("a-new-app-secret"), Secret("an-old-app-secret")


def sign(body: bytes, secret: Secret) -> str:
    return "sha256=" + hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest()


def refusal(check: SignatureCheck, body: bytes, header: str | None) -> tuple[str, int, str]:
    with pytest.raises(WebhookRefused) as caught:
        check.verify(body, header)
    return caught.value.code, caught.value.status, caught.value.message


@pytest.mark.parametrize("secret", [NEW, OLD], ids=["the-first", "the-last"])
def test_a_body_signed_with_any_of_the_secrets_passes(secret: Secret) -> None:
    check = SignatureCheck([NEW, OLD])

    check.verify(BODY, sign(BODY, secret))


@given(body=st.binary(), key=st.text(st.characters(codec="utf-8"), min_size=1))
def test_every_body_passes_with_its_signature_and_no_other_body_does(body: bytes, key: str) -> None:
    check = SignatureCheck([Secret(key)])
    header = sign(body, Secret(key))

    check.verify(body, header)

    assert refusal(check, body + b"\n", header)[0] == "signature_mismatch"


@pytest.mark.parametrize("size", [1, 63, 64, 65, 200])
def test_a_secret_of_any_length_signs(size: int) -> None:
    secret = Secret("k" * size)

    SignatureCheck([secret]).verify(BODY, sign(BODY, secret))


@given(header=st.text() | st.from_regex(r"\A(sha256=)?[0-9a-fA-F]{62,66}\s?\Z"))
def test_a_header_that_is_no_signature_of_the_body_is_refused_by_its_form(header: str) -> None:
    has_form = re.fullmatch(r"sha256=[0-9a-f]{64}", header) is not None

    code, status, _ = refusal(SignatureCheck([NEW, OLD]), BODY, header)

    assert (code, status) == (
        ("signature_mismatch", 401) if has_form else ("invalid_signature_format", 400)
    )


def test_a_check_can_be_used_again_after_a_refusal() -> None:
    check = SignatureCheck([NEW])

    refusal(check, BODY, sign(BODY, OLD))

    check.verify(BODY, sign(BODY, NEW))


def test_a_body_without_a_signature_is_refused() -> None:
    assert refusal(SignatureCheck([NEW]), BODY, None) == (
        "missing_signature",
        401,
        "Missing X-Hub-Signature-256 header.",
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(str.upper, id="upper-case"),
        pytest.param(lambda header: header[:-1], id="too-short"),
        pytest.param(lambda header: header + "0", id="too-long"),
        pytest.param(lambda header: " " + header, id="space"),
        pytest.param(lambda header: header + "\n", id="newline"),
        pytest.param(lambda header: f"{header},{header}", id="two"),
        pytest.param(lambda header: header.replace("sha256", "sha1"), id="sha1"),
        pytest.param(lambda header: header[:-1] + "\u0661", id="foreign-digit"),
        pytest.param(lambda header: header[:-1] + "\ud800", id="half-of-a-surrogate-pair"),
        pytest.param(lambda header: "", id="empty"),
    ],
)
def test_a_signature_of_another_form_is_refused(change) -> None:
    header = change(sign(BODY, NEW))

    assert refusal(SignatureCheck([NEW]), BODY, header) == (
        "invalid_signature_format",
        400,
        "X-Hub-Signature-256 must be 'sha256=<64 hex chars>'.",
    )


def test_a_body_signed_with_another_secret_is_refused() -> None:
    assert refusal(SignatureCheck([NEW]), BODY, sign(BODY, OLD)) == (
        "signature_mismatch",
        401,
        "X-Hub-Signature-256 does not match payload digest.",
    )


def test_there_is_no_check_without_a_secret() -> None:
    with pytest.raises(ValueError, match="at least one app secret"):
        SignatureCheck([])


CHALLENGE = {
    "hub.mode": "subscribe",
    "hub.verify_token": "the-agreed-word",
    "hub.challenge": "<b>1158201444</b>",
}


def test_the_challenge_is_returned_unchanged() -> None:
    assert answer_challenge(CHALLENGE, Secret("the-agreed-word")) == "<b>1158201444</b>"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"hub.mode": "unsubscribe", "hub.verify_token": "wrong"},
            ("invalid_mode", 400, "Webhook challenge mode must be 'subscribe'."),
            id="mode-first",
        ),
        pytest.param(
            {"hub.verify_token": "wrong", "hub.challenge": ""},
            (
                "invalid_verify_token",
                401,
                "Webhook verify token does not match configured token.",
            ),
            id="token-next",
        ),
        pytest.param(
            {"hub.verify_token": "\ud800"},
            (
                "invalid_verify_token",
                401,
                "Webhook verify token does not match configured token.",
            ),
            id="no-text",
        ),
        pytest.param(
            {"hub.challenge": ""},
            ("missing_challenge", 400, "Webhook challenge must be a non-empty string."),
            id="challenge-last",
        ),
    ],
)
def test_a_wrong_challenge_is_refused(changes, expected) -> None:
    with pytest.raises(WebhookRefused) as caught:
        answer_challenge(CHALLENGE | changes, Secret("the-agreed-word"))

    assert (caught.value.code, caught.value.status, caught.value.message) == expected


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        ("hub.mode", "invalid_mode"),
        ("hub.verify_token", "invalid_verify_token"),
        ("hub.challenge", "missing_challenge"),
    ],
)
def test_a_challenge_without_one_of_its_parts_is_refused(missing, code) -> None:
    query = {name: value for name, value in CHALLENGE.items() if name != missing}

    with pytest.raises(WebhookRefused) as caught:
        answer_challenge(query, Secret("the-agreed-word"))

    assert caught.value.code == code
