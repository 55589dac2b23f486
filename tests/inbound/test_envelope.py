import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.errors import WebhookRefused
from wats.inbound.envelope import parse
from wats.nesting import MAX_DEPTH


def envelope(text: bytes) -> bytes:
    return b'{"object":"whatsapp_business_account","entry":[],"text":' + text + b"}"


def refusal(body: bytes) -> tuple[str, int, str]:
    with pytest.raises(WebhookRefused) as caught:
        parse(body)
    return caught.value.code, caught.value.status, caught.value.message


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            b"[]", ("invalid_envelope", 400, "Webhook envelope is not an object."), id="list"
        ),
        pytest.param(
            b"null", ("invalid_envelope", 400, "Webhook envelope is not an object."), id="null"
        ),
        pytest.param(
            b'{"entry":[]}',
            (
                "missing_object_field",
                400,
                "Webhook envelope is missing the `object` field.",
            ),
            id="no-object",
        ),
        pytest.param(
            b'{"object":1,"entry":[]}',
            (
                "missing_object_field",
                400,
                "Webhook envelope is missing the `object` field.",
            ),
            id="object-is-a-number",
        ),
        pytest.param(
            b'{"object":"page","entry":[]}',
            ("unsupported_object", 400, "Unsupported webhook object."),
            id="another-product",
        ),
        pytest.param(
            b'{"object":"whatsapp_business_account","entry":{}}',
            ("invalid_entry_array", 400, "Webhook envelope `entry` must be an array."),
            id="entry-is-an-object",
        ),
        pytest.param(
            b'{"object":"whatsapp_business_account"}',
            ("invalid_entry_array", 400, "Webhook envelope `entry` must be an array."),
            id="no-entry",
        ),
    ],
)
def test_an_envelope_of_another_product_is_refused(body, expected) -> None:
    assert refusal(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut-off"),
        pytest.param(envelope(b"1") + b"x", id="trailing"),
        pytest.param(envelope(b"NaN"), id="nan"),
        pytest.param(envelope(b"Infinity"), id="infinity"),
        pytest.param(envelope(b"1e999"), id="too-large-a-number"),
        pytest.param(envelope(b"'a'"), id="single-quotes"),
        pytest.param(b"\xff\xfe{\x00}\x00", id="utf-16"),
    ],
)
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    assert refusal(body) == ("invalid_json", 400, "Request body is not valid JSON.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b'"a\xffb"', "a\ufffdb", id="no-utf-8"),
        pytest.param(b'"a\\ud83db"', "a\ufffdb", id="high-half-alone"),
        pytest.param(b'"a\\ude00b"', "a\ufffdb", id="low-half-alone"),
        pytest.param(b'"\\ude00\\ud83d"', "\ufffd\ufffd", id="halves-swapped"),
        pytest.param(b'"\\ud83d\\ud83d\\ude00"', "\ufffd\U0001f600", id="half-before-a-pair"),
        pytest.param(b'"\\\\ud83d\xff"', "\\ud83d\ufffd", id="escaped-backslash"),
        pytest.param(b'"\\ud83d\\n"', "\ufffd\n", id="other-escape"),
    ],
)
def test_text_that_is_not_unicode_is_repaired(text: bytes, expected: str) -> None:
    assert parse(envelope(text))["text"] == expected


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse(b"\xef\xbb\xbf" + envelope(b'"a"'))["text"] == "a"


def test_whole_numbers_of_any_size_are_kept_exactly() -> None:
    assert parse(envelope(b"123456789012345678901234567890"))["text"] == (
        123456789012345678901234567890
    )


@given(body=st.binary() | st.text(st.characters()).map(lambda text: json.dumps(text).encode()))
def test_every_parsed_body_can_be_serialized_again(body: bytes) -> None:
    try:
        value = parse(envelope(body))
    except WebhookRefused:
        return

    assert msgspec.json.decode(msgspec.json.encode(value)) == value


def test_nesting_is_read_to_a_limit() -> None:
    inside = MAX_DEPTH - 1

    assert parse(envelope(b"[" * inside + b"]" * inside))
    assert refusal(envelope(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH))[0] == "invalid_json"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("depth", [2_000, 500_000])
def test_absurd_nesting_is_refused(opening: bytes, closing: bytes, depth: int) -> None:
    body = envelope(opening * depth + b"1" + closing * depth)

    assert refusal(body)[0] == "invalid_json"


def test_many_flat_items_are_not_taken_for_deep_ones() -> None:
    assert parse(envelope(b"[" + b",".join([b'{"a":"[["}'] * 2_000) + b"]"))


def test_a_refusal_does_not_quote_the_body() -> None:
    with pytest.raises(WebhookRefused) as caught:
        parse(b'{"object":"15550002222","entry":[]}')

    assert "15550002222" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_refusal_of_broken_json_does_not_carry_the_decoders_complaint() -> None:
    with pytest.raises(WebhookRefused) as caught:
        parse(b'{"15550002222"')

    assert caught.value.__context__ is None
