"""The messages that callers may ask us to send."""

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.errors import MalformedRequest
from wats.outbound.messages import (
    OutboundText,
    Outgoing,
    canonical,
    is_group_id,
    is_plain,
    parse_graph_message,
    parse_text,
    utf16_length,
)

MARK = "SENTINEL"


def body_of(**fields: Any) -> bytes:
    return json.dumps({"messaging_product": "whatsapp", "to": "15551230000", **fields}).encode()


def text_of(text: Any, **fields: Any) -> bytes:
    return json.dumps({"to": "15551230000", "text": text, **fields}).encode()


def mistakes_in(body: bytes, *, groups_enabled: bool = False) -> list[str]:
    with pytest.raises(MalformedRequest) as caught:
        parse_graph_message(body, groups_enabled=groups_enabled)
    assert caught.value.code == "malformed_body"
    assert caught.value.message == "Message body is invalid or unsupported."
    return [detail.path for detail in caught.value.details]


def mistakes_in_text(body: bytes) -> list[str]:
    with pytest.raises(MalformedRequest) as caught:
        parse_text(body)
    assert caught.value.code == "malformed_body"
    assert caught.value.message == "Text message body is invalid."
    return [detail.path for detail in caught.value.details]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut-off"),
        pytest.param(b'{"to":"\xff"}', id="not-utf-8"),
        pytest.param(b'{"to":"\\ud800"}', id="half-a-surrogate-pair"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte-order-mark"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="too-deep"),
        pytest.param(b'{"n":1e400}', id="number-out-of-range"),
    ],
)
def test_a_body_that_is_not_json_has_an_error_of_its_own(body: bytes) -> None:
    for parse in (parse_text, canonical, lambda raw: parse_graph_message(raw, groups_enabled=True)):
        with pytest.raises(MalformedRequest) as caught:
            parse(body)

        assert caught.value.code == "malformed_json"
        assert caught.value.message == "Request body must be valid JSON."
        assert caught.value.details == ()
        assert caught.value.__cause__ is None


def test_a_number_in_place_of_the_recipient_must_be_a_string() -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse_text(b'{"to":15551230000,"text":"Hello"}')

    assert [each.reason.split(" of ")[0] for each in caught.value.details] == ["must be a string"]


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"1"])
def test_the_root_must_be_an_object(body: bytes) -> None:
    assert mistakes_in(body) == ["$"]
    assert mistakes_in_text(body) == ["$"]


def test_a_text_is_taken_as_it_is_written() -> None:
    message = parse_text(text_of("one\n\ttwo 😀", previewUrl=False, unknown=[1]))

    assert message == OutboundText(to="15551230000", text="one\n\ttwo 😀", preview_url=False)


def test_a_text_without_a_preview_flag_leaves_it_to_meta() -> None:
    assert parse_text(text_of("hello")).preview_url is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="null"),
        pytest.param(7, id="number"),
        pytest.param("", id="empty"),
        pytest.param(" \n\u2028\ufeff\u3000", id="blank"),
        pytest.param("a\x0cb", id="form-feed"),
        pytest.param("a\x00b", id="null-character"),
        pytest.param("a\x7fb", id="delete"),
        pytest.param("a" * 4097, id="too-long"),
        pytest.param("😀" * 4097, id="too-long-beyond-the-basic-plane"),
    ],
)
def test_a_text_that_cannot_be_sent_is_refused(text: Any) -> None:
    assert mistakes_in_text(text_of(text)) == ["text"]
    assert mistakes_in(body_of(type="text", text={"body": text})) == ["text.body"]


@pytest.mark.parametrize("text", ["a" * 4096, "😀" * 4096, ".", "שלום\n\n\u200f"])
def test_a_text_may_be_as_long_as_meta_allows(text: str) -> None:
    assert parse_text(text_of(text)).text == text
    assert parse_graph_message(body_of(type="text", text={"body": text}), groups_enabled=False)


@pytest.mark.parametrize("text", ["a\r\nb\r\n", "a\rb\n", "a\nb\r"])
def test_line_ends_of_any_kind_are_accepted_and_become_line_feeds(text: str) -> None:
    assert parse_text(text_of(text)).text == "a\nb\n"
    assert parse_graph_message(body_of(type="text", text={"body": text}), groups_enabled=False)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("text", '{"body": "Hi"}'),
        ("contacts", '[{"name": {"formatted_name": "A Person"}}]'),
        ("interactive", '{"type": "button"}'),
    ],
)
def test_the_content_may_be_a_text_with_its_json(kind: str, content: str) -> None:
    message = parse_graph_message(body_of(type=kind, **{kind: content}), groups_enabled=False)

    assert message is not None
    assert message.type == kind


@pytest.mark.parametrize(
    ("kind", "content", "mistake"),
    [
        ("text", '{"body": " "}', "text.body"),
        ("text", "Hi", "type"),
        ("contacts", "{}", "contacts"),
        ("image", "[" * 1000 + "]" * 1000, "type"),
    ],
)
def test_a_text_with_other_json_is_refused(kind: str, content: str, mistake: str) -> None:
    assert mistakes_in(body_of(type=kind, **{kind: content})) == [mistake]


def test_all_mistakes_are_reported_together() -> None:
    body = json.dumps({"to": "x", "text": "\x00", "previewUrl": 1}).encode()
    graph = {"messaging_product": "x", "to": 1, "type": "text", "text": {"preview_url": "yes"}}

    assert mistakes_in_text(body) == ["to", "text", "previewUrl"]
    assert mistakes_in(json.dumps(graph).encode()) == [
        "messaging_product",
        "to",
        "text.body",
        "text.preview_url",
    ]


@pytest.mark.parametrize(
    ("to", "digits"),
    [
        ("1", "1"),
        ("+1", "1"),
        ("123456789012345", "123456789012345"),
        ("+123456789012345", "123456789012345"),
        ("+1 (555) 000-2222", "15550002222"),
        ("(555) 0002222", "5550002222"),
        ("1-2", "12"),
    ],
)
def test_a_phone_number_is_up_to_15_digits_and_recorded_as_digits(to: str, digits: str) -> None:
    body = body_of(to=to, type="image", image={"id": "1"})

    assert parse_text(json.dumps({"to": to, "text": "hi"}).encode()).to == to
    parsed = parse_graph_message(body, groups_enabled=False)
    assert parsed == Outgoing(type="image", recipient=digits)


@pytest.mark.parametrize(
    "to",
    [
        "",
        "+",
        "1234567890123456",
        "++1",
        "1    2",
        "1.2",
        "1-",
        " 1",
        "((1",
        "1 " * 16,
        "١٢٣",
        "12\n",
        None,
        15551230000,
        {},
    ],
)
def test_a_recipient_that_is_no_phone_number_is_refused(to: Any) -> None:
    assert mistakes_in_text(json.dumps({"to": to, "text": "hi"}).encode()) == ["to"]
    assert mistakes_in(body_of(to=to, type="image", image={})) == ["to"]


def test_a_message_needs_a_recipient() -> None:
    body = b'{"messaging_product":"whatsapp","type":"image","image":{}}'

    assert mistakes_in(body) == ["to"]


@pytest.mark.parametrize("bsuid", ["US.1", "DE.ENT.abcXYZ09", "BR." + "a" * 128])
def test_a_business_scoped_user_id_is_a_recipient(bsuid: str) -> None:
    message = {"messaging_product": "whatsapp", "recipient": bsuid, "type": "image", "image": {}}

    parsed = parse_graph_message(json.dumps(message).encode(), groups_enabled=False)

    assert parsed == Outgoing(type="image", recipient=bsuid)


@pytest.mark.parametrize("bsuid", ["", "15551230000", "US", "US.", "us.1", "BR." + "a" * 129, 5])
def test_an_invalid_user_id_is_refused(bsuid: Any) -> None:
    message = {"messaging_product": "whatsapp", "recipient": bsuid, "type": "image", "image": {}}

    assert mistakes_in(json.dumps(message).encode()) == ["recipient"]


def test_the_phone_number_is_recorded_where_both_are_given() -> None:
    parsed = parse_graph_message(
        body_of(recipient="US.1", recipient_type="individual", type="image", image={}),
        groups_enabled=False,
    )

    assert parsed == Outgoing(type="image", recipient="15551230000")


@pytest.mark.parametrize(
    "kind",
    [
        "template",
        "interactive",
        "image",
        "video",
        "sticker",
        "location",
        "reaction",
        "type_of_2027",
    ],
)
def test_every_type_is_passed_on_with_an_object_of_its_name(kind: str) -> None:
    parsed = parse_graph_message(body_of(type=kind, **{kind: {"a": None}}), groups_enabled=False)

    assert parsed == Outgoing(type=kind, recipient="15551230000")


def test_contacts_are_an_array() -> None:
    assert parse_graph_message(body_of(type="contacts", contacts=[{}]), groups_enabled=False)
    assert mistakes_in(body_of(type="contacts", contacts={})) == ["contacts"]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="no-type"),
        pytest.param({"type": "image"}, id="no-content"),
        pytest.param({"type": "image", "image": []}, id="array"),
        pytest.param({"type": "image", "image": "1"}, id="string"),
        pytest.param({"type": "a b", "a b": {}}, id="unsafe-name"),
        pytest.param({"type": "a" * 33, "a" * 33: {}}, id="long-name"),
        pytest.param({"type": ["image"], "image": {}}, id="not-a-string"),
    ],
)
def test_a_type_must_name_the_content_next_to_it(fields: dict[str, Any]) -> None:
    assert mistakes_in(body_of(**fields)) == ["type"]


def test_a_group_is_a_recipient_where_groups_are_enabled() -> None:
    body = body_of(to="Y2Fw-x_1=", recipient_type="group", type="text", text={"body": "hi"})

    parsed = parse_graph_message(body, groups_enabled=True)

    assert parsed == Outgoing(type="text", recipient="Y2Fw-x_1=", is_group=True)


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        pytest.param({"recipient_type": "group", "to": "g"}, ["recipient_type"], id="group"),
        pytest.param({"recipientType": "group"}, ["recipientType"], id="camel-case"),
        pytest.param({"type": "pin", "pin": {}}, ["type"], id="pin"),
    ],
)
def test_groups_are_refused_where_they_are_not_enabled(
    fields: dict[str, Any], paths: list[str]
) -> None:
    assert mistakes_in(body_of(**{"type": "image", "image": {}, **fields})) == paths


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        pytest.param({"to": "15551230000"}, ["to"], id="phone-number"),
        pytest.param({"to": "a/b"}, ["to"], id="slash"),
        pytest.param({"to": None}, ["to"], id="null"),
        pytest.param({"to": "g", "recipient": "US.1"}, ["recipient"], id="two-recipients"),
    ],
)
def test_a_group_message_needs_the_id_of_a_group(fields: dict[str, Any], paths: list[str]) -> None:
    body = body_of(**{"recipient_type": "group", "type": "image", "image": {}, **fields})

    assert mistakes_in(body, groups_enabled=True) == paths


def test_a_pin_is_for_groups_alone() -> None:
    assert mistakes_in(body_of(type="pin", pin={}), groups_enabled=True) == ["recipient_type"]


@pytest.mark.parametrize("kind", ["everyone", None, 1, []])
def test_a_recipient_is_an_individual_or_a_group(kind: Any) -> None:
    body = body_of(recipient_type=kind, type="image", image={})

    assert mistakes_in(body, groups_enabled=True) == ["recipient_type"]


@pytest.mark.parametrize(
    ("group", "fine"),
    [
        ("g", True),
        ("a" * 256, True),
        ("😀" * 128, True),
        ("😀" * 129, False),
        ("a" * 257, False),
        ("", False),
        (" ", False),
        ("a\nb", False),
        ("123", False),
        ("1234567890123456", False),
        ("+1234567890123456", False),
        ("1234567890123456a", True),
        *((f"a{character}b", False) for character in "/\\?#:@"),
    ],
)
def test_a_group_id_is_opaque_but_safe(group: str, fine: bool) -> None:
    assert is_group_id(group) is fine


def test_a_mark_as_read_is_no_message() -> None:
    mark = {"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.X"}
    typing = {**mark, "typing_indicator": {"type": "text"}}

    assert parse_graph_message(json.dumps(mark).encode(), groups_enabled=False) is None
    assert parse_graph_message(json.dumps(typing).encode(), groups_enabled=False) is None


def test_a_read_mark_must_name_a_message_and_have_no_other_content() -> None:
    body = body_of(status="delivered", typing_indicator="text", type="text", text={"body": "hi"})

    assert mistakes_in(body) == ["status", "message_id", "typing_indicator", "type"]


def test_canonical_json_shows_neither_space_nor_order() -> None:
    one = canonical(b'{"b": [1.0, "\\u00e9"], "a": null}')
    other = canonical('{"a":null,"b":[1.0,"é"]}'.encode())

    assert one == other
    assert canonical(b'{"a":1}') != canonical(b'{"a":"1"}')


@given(st.text())
def test_lengths_are_counted_as_javascript_counts_them(text: str) -> None:
    assert utf16_length(text) == sum(2 if ord(character) > 0xFFFF else 1 for character in text)


@pytest.mark.parametrize("value", [None, 1, b"a", "", " ", "\ufeff", "a\tb", "a\nb", "a" * 5])
def test_text_of_several_or_long_lines_is_not_plain(value: object) -> None:
    assert not is_plain(value, 4)


marked = st.text(max_size=8).map(lambda text: MARK + text)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | marked,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(marked, inner, max_size=4),
    max_leaves=12,
)
ours = st.sampled_from(
    [
        *("messaging_product", "to", "recipient", "recipient_type", "recipientType", "type"),
        *("text", "status", "message_id", "typing_indicator", "contacts", "pin", "body"),
        *("preview_url", "previewUrl"),
    ]
)
known = st.sampled_from(["whatsapp", "text", "contacts", "pin", "group", "read", "15551230000"])
asks = st.dictionaries(
    ours | marked, known | values | st.dictionaries(ours, known | values, max_size=3), max_size=8
)


def refusal_of(body: bytes, *, groups_enabled: bool) -> list[str]:
    """Return all issues of *body*, if it is refused."""
    texts: list[str] = []
    for parse in (parse_text, partial(parse_graph_message, groups_enabled=groups_enabled)):
        try:
            parse(body)
        except MalformedRequest as error:
            texts += [str(error), *map(str, error.details), repr(error.__cause__)]
    return texts


@given(ask=asks | values, groups_enabled=st.booleans())
def test_no_error_quotes_the_request(ask: Any, groups_enabled: bool) -> None:
    body = json.dumps(ask).encode("utf-8", errors="surrogatepass")

    texts = refusal_of(body, groups_enabled=groups_enabled)

    assert MARK not in "".join(texts)


@given(st.binary(max_size=64))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    assert refusal_of(body, groups_enabled=True)
