"""The parts of Meta's responses that callers receive."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.outbound.answers import encode, message_id

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["messages", "id", "x"]), inner)
    ),
)


def test_an_object_is_passed_on_whole_and_compact() -> None:
    assert encode({"messages": [{"id": "wamid.é"}], "x": None}) == (
        '{"messages":[{"id":"wamid.é"}],"x":null}'.encode()
    )


@pytest.mark.parametrize("payload", [None, "<html>", [], 1, True])
def test_a_response_that_is_not_an_object_becomes_an_empty_one(payload: Any) -> None:
    assert encode(payload) == b"{}"
    assert message_id(payload) is None


def test_the_id_of_the_first_message_is_used() -> None:
    assert message_id({"messages": [{"id": "wamid.1"}, {"id": "wamid.2"}]}) == "wamid.1"


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"messages": []},
        {"messages": {}},
        {"messages": [None]},
        {"messages": [{}]},
        {"messages": [{"id": 5}]},
        {"messages": [{"id": ""}]},
        {"messages": [{"id": "a\nb"}]},
        {"messages": [{"id": "a" * 257}]},
    ],
)
def test_an_id_that_cannot_be_used_is_none(payload: Any) -> None:
    assert message_id(payload) is None


@given(json_values)
def test_every_2xx_response_of_meta_is_accepted(payload: Any) -> None:
    found = message_id(payload)

    assert found is None or found
    assert encode(payload).startswith(b"{")
