"""The schemas of the bodies, and the rules that judge the same bodies, agree."""

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wats.errors import MalformedRequest
from wats.outbound.messages import parse_graph_message, parse_text
from wats.web.api.groups import (
    MAX_DESCRIPTION_LENGTH,
    MAX_JOIN_REQUESTS,
    MAX_PARTICIPANTS,
    CreateGroup,
    JoinRequests,
    RemoveParticipants,
)
from wats.web.api.messages import ReadMark, TextMessage, TypedMessage
from wats.web.problems import ErrorEnvelope, Problem


def is_described(body: Any, *types: Any) -> bool:
    return any(
        jsonschema.Draft202012Validator(msgspec.json.schema(each)).is_valid(body) for each in types
    )


phones = st.sampled_from(["1555", "+1555", "15551230000"]) | st.text(max_size=3)
texts = st.text(max_size=4) | st.integers() | st.none()


@given(
    st.fixed_dictionaries(
        {"to": phones, "text": texts}, optional={"previewUrl": st.booleans() | st.none()}
    )
)
def test_a_text_that_is_taken_is_described(body: dict[str, Any]) -> None:
    try:
        parse_text(json.dumps(body).encode())
    except MalformedRequest:
        return

    assert is_described(body, TextMessage)


contents = st.dictionaries(st.sampled_from(["body", "preview_url", "id"]), texts | st.booleans())


@given(
    st.fixed_dictionaries(
        {"messaging_product": st.just("whatsapp")},
        optional={
            "to": phones,
            "recipient": st.sampled_from(["US.1", "x", ""]),
            "recipient_type": st.sampled_from(["individual", "group"]),
            "type": st.sampled_from(["text", "image", "A"]),
            "text": contents,
            "image": contents,
            "status": st.just("read"),
            "message_id": texts,
        },
    )
)
def test_a_message_that_is_taken_is_described(body: dict[str, Any]) -> None:
    # `text` in a message of another type is ignored, but its schema is in the document.
    assume(body.get("type") == "text" or "text" not in body)
    try:
        parse_graph_message(json.dumps(body).encode(), groups_enabled=True)
    except MalformedRequest:
        return

    assert is_described(body, TypedMessage, ReadMark)


@pytest.mark.parametrize(
    ("body", "name", "limit"),
    [
        (RemoveParticipants, "waIds", ("maxItems", MAX_PARTICIPANTS)),
        (JoinRequests, "joinRequestIds", ("maxItems", MAX_JOIN_REQUESTS)),
        (CreateGroup, "description", ("maxLength", MAX_DESCRIPTION_LENGTH)),
    ],
)
def test_the_limits_of_groups_are_those_that_are_enforced(
    body: Any, name: str, limit: tuple[str, int]
) -> None:
    (schema,) = msgspec.json.schema(body)["$defs"].values()

    assert schema["properties"][name][limit[0]] == limit[1]


def test_absent_fields_are_left_out_of_an_error() -> None:
    error = ErrorEnvelope(error=Problem(code="c", message="m", fbtrace_id="A"))

    assert msgspec.json.encode(error) == (b'{"error":{"code":"c","message":"m","fbtraceId":"A"}}')
