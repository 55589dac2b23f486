"""The Graph JSON of the text route."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.outbound.messages import OutboundText, parse_graph_message
from wats.outbound.payload import text_payload


@pytest.mark.parametrize(
    ("preview", "ending"),
    [
        pytest.param(None, b"", id="left-to-meta"),
        pytest.param(True, b',"preview_url":true', id="wanted"),
        pytest.param(False, b',"preview_url":false', id="not-wanted"),
    ],
)
def test_a_text_has_the_keys_that_graph_wants_in_order(preview: bool | None, ending: bytes) -> None:
    payload = text_payload(OutboundText(to="+1555", text="à\n😀", preview_url=preview))

    start = '{"messaging_product":"whatsapp","to":"+1555","type":"text","text":{"body":"à\\n😀"'
    assert payload == start.encode() + ending + b"}}"


@given(
    text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=2000).filter(
        lambda text: text.strip().strip("\ufeff")
    ),
    preview=st.none() | st.booleans(),
)
def test_every_message_of_the_text_route_is_valid_on_the_other_route(
    text: str, preview: bool | None
) -> None:
    payload = text_payload(OutboundText(to="1555", text=text, preview_url=preview))

    assert json.loads(payload)["text"]["body"] == text
    assert parse_graph_message(payload, groups_enabled=False) is not None
