import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.simulator.content import MAX_BUTTONS, PhoneContent, content_of
from wats.simulator.messages import TYPES

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each),
    max_leaves=8,
)
NAMES = (
    "action body buttons components context emoji header language name parameters reply rows "
    "sections text title type"
)
MEMBERS = st.sampled_from([*NAMES.split(), *sorted(TYPES)])
MESSAGES = st.dictionaries(MEMBERS, JSON | st.dictionaries(MEMBERS, JSON), max_size=6)


def shown(kind: str, content: object, **others: Any) -> PhoneContent:
    return content_of({"type": kind, kind: content, **others})


@given(st.sampled_from(sorted(TYPES)), MESSAGES, MESSAGES)
def test_any_json_can_be_shown(kind: str, message: dict[str, Any], content: object) -> None:
    for each in (content, [content], message.get(kind)):
        found = content_of({**message, "type": kind, kind: each})

        assert isinstance(found.text, str)
        assert all(isinstance(title, str) and title for title in found.buttons)


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        ("text", {"body": "Hello\nthere"}, "Hello\nthere"),
        ("image", {"id": "1", "caption": "A cake"}, "A cake"),
        ("audio", {"id": "1"}, ""),
        (
            "document",
            {"link": "x", "filename": "bill.pdf", "caption": "Thanks"},
            "bill.pdf\nThanks",
        ),
        ("location", {"latitude": 1.5, "longitude": 2, "name": "Shop"}, "Shop\n1.5, 2"),
        ("location", {"latitude": 10**5000, "longitude": float("nan"), "address": "A"}, "A"),
        ("contacts", [{"name": {"formatted_name": "Jo Doe"}}, {"name": {}}], "Jo Doe"),
        ("reaction", {"message_id": "wamid.1", "emoji": "👍"}, "👍"),
        ("button", {"text": "Yes", "payload": "y"}, "Yes"),
        ("order", {"text": "Please hurry"}, ""),
        ("poll", {"text": "of a later version"}, ""),
    ],
)
def test_the_text_of_each_type(kind: str, content: object, text: str) -> None:
    assert shown(kind, content).text == text


def test_a_template_is_its_name_and_its_parameters() -> None:
    template = {
        "name": "order_shipped",
        "language": {"code": "en_US"},
        "components": [
            {"type": "header", "parameters": [{"type": "image", "image": {"id": "1"}}]},
            {
                "type": "BODY",
                "parameters": [
                    {"type": "text", "text": "Jo"},
                    {"type": "text", "parameter_name": "order", "text": "#7"},
                    {"type": "currency", "currency": {"fallback_value": "$9", "code": "USD"}},
                ],
            },
            {
                "type": "button",
                "sub_type": "url",
                "index": "0",
                "parameters": [{"type": "text", "text": "track/7"}],
            },
            {
                "type": "button",
                "sub_type": "quick_reply",
                "index": 1,
                "parameters": [{"type": "payload", "payload": "STOP"}],
            },
        ],
    }

    assert shown("template", template) == PhoneContent(
        "order_shipped (en_US)\nheader: [image]\nbody: Jo, order=#7, $9",
        ("url track/7", "quick_reply STOP"),
    )
    assert shown("template", {"name": "hello"}).text == "hello"


def test_an_interactive_message_has_buttons() -> None:
    content = {
        "type": "button",
        "header": {"type": "text", "text": "Shop"},
        "body": {"text": "Which size?"},
        "footer": {"text": "Reply soon"},
        "action": {
            "buttons": [
                {"type": "reply", "reply": {"id": "s", "title": "Small"}},
                {"type": "reply", "reply": {"id": "l", "title": "Large"}},
            ]
        },
    }

    found = shown("interactive", content)

    assert found == PhoneContent("Shop\nWhich size?\nReply soon", ("Small", "Large"))


@pytest.mark.parametrize(
    ("action", "buttons"),
    [
        (
            {
                "button": "Choose",
                "sections": [
                    {"title": "A", "rows": [{"id": "1", "title": "One"}]},
                    {"title": "B", "rows": [{"id": "2", "title": "Two"}]},
                ],
            },
            ("Choose", "One", "Two"),
        ),
        ({"name": "cta_url", "parameters": {"display_text": "Open", "url": "x"}}, ("Open",)),
        ({"name": "flow", "parameters": {"flow_cta": "Book"}}, ("Book",)),
        (
            {
                "cards": [
                    {"action": {"parameters": {"display_text": "Open"}}},
                    {"action": {"buttons": [{"quick_reply": {"id": "1", "title": "One"}}]}},
                ]
            },
            ("Open", "One"),
        ),
    ],
)
def test_lists_links_and_flows_have_buttons_too(action: object, buttons: tuple[str]) -> None:
    content = {"header": {"type": "video"}, "body": {"text": "Hi"}, "action": action}

    assert shown("interactive", content) == PhoneContent("[video]\nHi", buttons)


@pytest.mark.parametrize("reply", ["button_reply", "list_reply"])
def test_a_tapped_button_is_shown_by_its_title(reply: str) -> None:
    content = {"type": reply, reply: {"id": "s", "title": "Small"}}

    assert shown("interactive", content).text == "Small"


def test_the_number_of_buttons_is_bounded() -> None:
    rows = [{"title": str(number)} for number in range(99)]

    found = shown("interactive", {"action": {"sections": [{"rows": rows}]}})

    assert len(found.buttons) == MAX_BUTTONS


@pytest.mark.parametrize(
    "message",
    [
        {"type": "reaction", "reaction": {"message_id": "wamid.1", "emoji": "x"}},
        {"type": "text", "text": {"body": "Hi"}, "context": {"message_id": "wamid.1"}},
        {"type": "text", "text": {"body": "Hi"}, "context": {"id": "wamid.1", "from": "1"}},
    ],
    ids=json.dumps,
)
def test_a_message_names_the_one_that_it_answers(message: dict[str, Any]) -> None:
    assert content_of(message).reply_to == "wamid.1"
