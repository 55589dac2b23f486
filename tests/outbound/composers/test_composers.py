"""The composers: golden payloads, and every limit of the table at its edge and one over."""

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.errors import MalformedRequest
from wats.graph.parameters import find_parameter
from wats.outbound.composers import COMPOSERS
from wats.outbound.composers.composer import Composer
from wats.outbound.composers.examples import example_of
from wats.outbound.composers.values import (
    Array,
    Choice,
    Flag,
    Free,
    Number,
    Record,
    Refused,
    TextValue,
    Value,
    inner,
)
from wats.outbound.messages import Outgoing, parse_graph_message
from wats.outbound.requests import parse_message

Body: TypeAlias = dict[str, Any]
Place: TypeAlias = tuple[str | int, ...]

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text("utf-8"))
BODIES: list[Body] = [each["body"] for each in GOLDEN]
NAMES = [f"{each['type']}-{number}" for number, each in enumerate(BODIES)]
MARK = "SENTINEL"
TO = "15550002222"
WRONG: object = [None]
"""A value that is valid nowhere."""


def encoded(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def parse(
    body: Any, *, groups_enabled: bool = True, strict: bool = False
) -> tuple[bytes, Outgoing | None]:
    return parse_message(encoded(body), groups_enabled=groups_enabled, is_strict=lambda: strict)


def refusal_of(body: Any, **options: Any) -> MalformedRequest | None:
    try:
        parse(body, **options)
    except MalformedRequest as error:
        return error
    return None


def mistakes_in(body: Any, **options: Any) -> list[str]:
    error = refusal_of(body, **options)
    return [] if error is None else [detail.path for detail in error.details]


def written(place: Place) -> str:
    """Return *place* as errors and the documentation write it."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return text.removeprefix(".")


def general(place: Place) -> str:
    return written(tuple("[]" if isinstance(step, int) else step for step in place))


def places(value: Any, kind: Value, place: Place = ()) -> Iterator[tuple[Place, Value]]:
    """Yield each place of *value* with its kind, outer ones first."""
    kind = inner(kind)
    if place:
        yield place, kind
    if isinstance(kind, Record):
        for field in kind.fields:
            if (key := field.key_in(value)) is not None:
                yield from places(value[key], field.value, (*place, key))
    elif isinstance(kind, Array):
        for index, item in enumerate(value):
            yield from places(item, kind.item, (*place, index))


def keys_of_table(kind: Value, prefix: str = "") -> Iterator[str]:
    """Yield the general places of all keys of *kind*, in every spelling."""
    kind = inner(kind)
    if isinstance(kind, Record):
        for field in kind.fields:
            if not isinstance(field.value, Refused):
                for key in (field.name, *field.aliases):
                    yield f"{prefix}.{key}".removeprefix(".")
                    yield from keys_of_table(field.value, f"{prefix}.{key}")
    elif isinstance(kind, Array):
        yield from keys_of_table(kind.item, f"{prefix}.[]")


def changed(body: Body, place: Place, value: object) -> Body:
    """Return *body* with *value* at *place*."""
    copy = deepcopy(body)
    target: Any = copy
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    return copy


def read(body: Any, place: Place) -> Any:
    for step in place:
        body = body[step]
    return body


def text_of(kind: TextValue, length: int) -> str:
    if kind.form == "an http or https URL":
        return "https://e.x/".ljust(length, "a")
    return "A" * length


def edges(kind: Value, value: Any) -> tuple[list[Any], list[Any]]:
    """Return the outermost valid values of *kind*, and the invalid ones next to them."""
    match kind:
        case TextValue(max_length=most):
            over = [text_of(kind, most + 1), "", " ", "a\x00", *([] if kind.lines else ["a\nb"])]
            return [text_of(kind, most), *(["a\n\tb"] if kind.lines else [])], over
        case Number(low=low, high=high, whole=True):
            return [low, high, float(high)], [low - 1, high + 1, low + 0.5, True, "1"]
        case Number(low=low, high=high):
            return [low, high], [low - 0.001, high + 0.001, 10**400, True, "1"]
        case Array(low=low, high=high):
            fitting = [[value[0]] * low, [value[0]] * high]
            return fitting, [[value[0]] * (low - 1), [value[0]] * (high + 1)]
        case Choice(words=words):
            return list(words), ["", "x", words[0].upper()]
        case Flag():
            return [True, False], ["true", 1]
        case Free():
            return [{}, {"a": [1]}], ["{}"]
        case _:
            return [], []


@cache
def examples_of_places() -> dict[tuple[str, str], list[tuple[int, Place, Value]]]:
    """Return for each composer and general place the golden bodies that have it."""
    found: dict[tuple[str, str], list[tuple[int, Place, Value]]] = {}
    for number, body in enumerate(BODIES):
        content = COMPOSERS[body["type"]].content
        for place, kind in places(body, content):
            found.setdefault((body["type"], general(place)), []).append((number, place, kind))
    return found


@pytest.mark.parametrize("golden", GOLDEN, ids=NAMES)
def test_a_composer_has_exactly_this_payload(golden: Body) -> None:
    payload, _ = parse(golden["body"])

    expected = json.dumps(golden["payload"], ensure_ascii=False, separators=(",", ":"))
    assert payload.decode() == expected


@pytest.mark.parametrize("composer", COMPOSERS.values(), ids=COMPOSERS)
def test_every_key_of_the_table_is_in_a_golden_body(composer: Composer) -> None:
    shown = {place for kind, place in examples_of_places() if kind == composer.kind}

    deep = {key for key in keys_of_table(composer.content) if key.count(".buttons.") < 2}
    # The components of a card are those of a template, whose golden bodies have all keys.
    missing = {key for key in deep - shown if not key.startswith("cards.[].")}
    assert missing == set()


@pytest.mark.parametrize("composer", COMPOSERS.values(), ids=COMPOSERS)
def test_a_limit_permits_its_edge_and_nothing_beyond(composer: Composer) -> None:
    schema = validator_of(composer.kind)
    for (kind, _), examples in examples_of_places().items():
        if kind != composer.kind:
            continue
        accepted = 0
        for number, place, value_kind in examples:
            body = BODIES[number]
            good, bad = edges(value_kind, read(body, place))
            accepted += all(not mistakes_in(changed(body, place, value)) for value in good)
            for value in [*bad, WRONG]:
                wrong = changed(body, place, value)
                assert any(path.startswith(written(place)) for path in mistakes_in(wrong)), (
                    written(place),
                    value,
                )
                if value != "a\x00" and value not in (" ", "a\nb"):
                    assert not schema.is_valid(wrong)
        # Another rule, such as a total, can refuse the edge in some of the bodies.
        assert accepted


def test_the_schema_and_the_check_agree_on_a_valid_body(subtests: pytest.Subtests) -> None:
    for name, body in zip(NAMES, BODIES, strict=True):
        with subtests.test(name):
            validator_of(body["type"]).validate(body)


@cache
def validator_of(kind: str) -> jsonschema.Draft202012Validator:
    schema = COMPOSERS[kind].schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("body", BODIES, ids=NAMES)
def test_a_required_key_is_reported_where_it_is_missing(body: Body) -> None:
    content = COMPOSERS[body["type"]].content
    for place, kind in [((), content), *places(body, content)]:
        for field in kind.fields if isinstance(kind, Record) else ():
            key = field.key_in(read(body, place))
            if field.required and key is not None:
                less = deepcopy(body)
                del read(less, place)[key]
                assert mistakes_in(less) == [written((*place, field.name))]


@pytest.mark.parametrize("composer", COMPOSERS.values(), ids=COMPOSERS)
def test_the_example_of_the_documentation_is_valid(composer: Composer) -> None:
    body = example_of(composer)

    payload, outgoing = parse(body)

    assert outgoing is not None
    assert outgoing.type == composer.graph_type == json.loads(payload)["type"]
    validator_of(composer.kind).validate(body)


@pytest.mark.parametrize("body", BODIES, ids=NAMES)
def test_a_payload_is_valid_in_graphs_format(body: Body) -> None:
    payload, outgoing = parse(body)

    again = parse_graph_message(payload, groups_enabled=True)
    assert outgoing is not None
    assert again is not None
    assert (again.type, again.recipient) == (outgoing.type, outgoing.recipient)
    assert again.is_group is outgoing.is_group


@pytest.mark.parametrize("body", BODIES, ids=NAMES)
def test_unknown_keys_are_ignored_and_refused_if_the_caller_asks_for_it(body: Body) -> None:
    content = COMPOSERS[body["type"]].content
    records = [place for place, kind in places(body, content) if isinstance(kind, Record)]
    more = deepcopy(body)
    for place in [(), *records]:
        read(more, place).update({"misspelt": 1, "491701234567": 1})

    paths = [written((*place, key)) for place in [(), *records] for key in ("misspelt", "?")]
    assert parse(more) == parse(body)
    assert sorted(mistakes_in(more, strict=True)) == sorted(paths)
    assert mistakes_in(body, strict=True) == []


def test_all_mistakes_are_reported_together() -> None:
    body = {
        "to": "x",
        "recipient": "y",
        "recipientType": "group",
        "type": "interactiveList",
        "headerText": "",
        "buttonText": "a" * 21,
        "sections": [{"rows": [{"id": 1}]}, {"rows": [], "title": "a" * 25}, 7],
        "replyToMessageId": "a\n",
    }

    assert mistakes_in(body) == [
        "recipientType",
        "to",
        "recipient",
        "headerText",
        "bodyText",
        "buttonText",
        "sections[0].rows[0].id",
        "sections[0].rows[0].title",
        "sections[1].title",
        "sections[1].rows",
        "sections[2]",
        "replyToMessageId",
    ]


def test_the_number_of_reported_mistakes_is_bounded() -> None:
    contact = {"name": {"formatted": "A"}, "phones": [0] * 20, "emails": [0] * 20}

    assert len(mistakes_in({"to": TO, "type": "contacts", "contacts": [contact] * 257})) == 100


@pytest.mark.parametrize(
    ("more", "paths"),
    [
        ({"type": "image"}, ["mediaId"]),
        ({"type": "image", "mediaId": "1", "link": "https://e.x"}, ["link"]),
        ({"type": "image", "link": "ftp://e.x"}, ["link"]),
        ({"type": "image", "link": "https://e.x/a b"}, ["link"]),
        ({"type": "image", "link": "https://"}, ["link"]),
        ({"type": "audio", "mediaId": "1", "caption": "x"}, ["caption"]),
        ({"type": "sticker", "mediaId": "1", "caption": "x"}, ["caption"]),
        ({"type": "contacts", "contacts": [{"name": {"formatted_name": "A"}}]},
         ["contacts[0].name.formattedName"]),
        ({"type": "contacts", "contacts": [{"name": {"formatted": "A"}, "phones": [{}]}]},
         ["contacts[0].phones[0].phone"]),
        ({"type": "contacts", "contacts": [{"name": {"formatted": "A"}, "addresses": [{}]}]},
         ["contacts[0].addresses[0].street"]),
        ({"type": "interactiveButtons", "bodyText": "x", "buttons": [{"id": "1", "title": "A"}],
          "headerText": "x", "header": {"image": {"mediaId": "1"}}}, ["header"]),
        ({"type": "interactiveFlow", "bodyText": "x", "buttonText": "x"}, ["flowId"]),
        ({"type": "interactiveFlow", "bodyText": "x", "buttonText": "x", "flowId": "1",
          "flowName": "x"}, ["flowName"]),
        ({"type": "template", "name": "x", "language": "en", "body": [{}]}, ["body[0].text"]),
        ({"type": "template", "name": "x", "language": "en", "header": {"name": "x"}},
         ["header.text"]),
        ({"type": "template", "name": "x", "language": "en", "buttons": [{"index": 0}]},
         ["buttons[0].payload"]),
        ({"type": "template", "name": "x", "language": "en", "cards": [{}]}, ["cards[0].header"]),
    ],
)  # fmt: skip
def test_a_broken_rule_over_several_keys_is_reported(more: Body, paths: list[str]) -> None:
    assert mistakes_in({"to": TO, **more}) == paths


@pytest.mark.parametrize(
    ("kind", "items", "most"),
    [("interactiveList", "rows", 10), ("interactiveProducts", "productItems", 30)],
)
def test_the_items_of_all_sections_have_a_limit(kind: str, items: str, most: int) -> None:
    body = next(body for body in BODIES if body["type"] == kind)
    [item] = body["sections"][0][items][:1]
    half = {"title": "A", items: [item] * (most // 2)}

    assert mistakes_in({**body, "sections": [half, half]}) == []
    assert mistakes_in({**body, "sections": [half, half, {**half, items: [item]}]}) == ["sections"]


@pytest.mark.parametrize(
    ("kind", "member"),
    [
        ("image", {"id": "1"}), ("video", {"id": "1"}), ("audio", {"id": "1"}),
        ("document", {"id": "1"}), ("sticker", {"id": "1"}), ("location", {"latitude": 1}),
        ("reaction", {"message_id": "wamid.X"}), ("template", {"name": "x"}),
        ("contacts", [{"name": {}}]),
    ],
)  # fmt: skip
def test_a_body_with_graphs_own_member_is_forwarded_unchanged(kind: str, member: Any) -> None:
    body = {"messaging_product": "whatsapp", "to": TO, "type": kind, kind: member, "mediaId": 1}

    payload, outgoing = parse(body)

    assert payload == encoded(body)
    assert outgoing == Outgoing(type=kind, recipient=TO)


def test_a_composer_is_recognized_with_a_product_too() -> None:
    body = {"messaging_product": "whatsapp", "to": TO, "type": "image", "mediaId": "1"}

    payload, _ = parse(body)

    assert json.loads(payload)["image"] == {"id": "1"}


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"messaging_product": "whatsapp", "type": "image"}, "type"),
        ({"messaging_product": "whatsapp", "type": "contacts", "contacts": {}}, "contacts"),
        ({"type": "image", "image": {"id": "1"}}, "messaging_product"),
        ({"type": "interactive", "interactive": {}}, "messaging_product"),
    ],
)
def test_a_defective_message_in_graphs_format_is_reported_as_such(more: Body, path: str) -> None:
    assert mistakes_in({"to": TO, **more}) == [path]


@pytest.mark.parametrize("kind", ["imge", "Image", "interactivebuttons", "type", ""])
def test_an_unknown_type_is_reported_with_the_valid_ones_and_without_its_value(kind: str) -> None:
    error = refusal_of({"to": TO, "type": kind, "link": "https://example.com/a.jpg"})

    assert error is not None
    assert error.code == "malformed_body"
    ((path, reason),) = [(each.path, each.reason) for each in error.details]
    assert path == "type"
    assert reason == (
        f"must be one of {', '.join(COMPOSERS)}; or, in Graph's format, the name of an object in "
        "the same body"
    )


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({"to": TO, "type": "text", "text": "Hi"}, ["messaging_product", "type"]),
        ({"to": TO, "type": "interactive"}, ["messaging_product", "type"]),
        ({"to": TO, "type": "novel", "novel": {}}, ["messaging_product"]),
        ({"to": TO, "messaging_product": "whatsapp", "type": "imge"}, ["type"]),
    ],
)
def test_a_defective_message_of_graphs_own_type_has_graphs_mistakes(
    body: Body, paths: list[str]
) -> None:
    error = refusal_of(body)

    assert error is not None
    assert [each.path for each in error.details] == paths
    assert not any("interactiveButtons" in each.reason for each in error.details)


def test_the_recipient_of_a_pin_is_a_group() -> None:
    pin = next(body for body in BODIES if body["type"] == "pin")

    _, outgoing = parse(pin)

    assert outgoing is not None
    assert (outgoing.type, outgoing.recipient, outgoing.is_group) == ("pin", pin["to"], True)
    assert mistakes_in({**pin, "to": TO}) == ["to"]
    assert mistakes_in({**pin, "recipientType": "individual"}) == ["recipientType"]
    assert mistakes_in({**pin, "recipientType": "group"}) == []


def test_groups_are_refused_where_they_are_not_enabled() -> None:
    pin = next(body for body in BODIES if body["type"] == "pin")
    image = {"to": TO, "type": "image", "mediaId": "1", "recipient_type": "group"}

    for body, path in ((pin, "type"), (image, "recipient_type")):
        assert mistakes_in(body, groups_enabled=False) == [path]


def test_the_record_of_a_message_has_no_content() -> None:
    body = {"to": "+1 (555) 000-2222", "type": "interactiveButtons", "bodyText": MARK,
            "buttons": [{"id": MARK, "title": MARK}]}  # fmt: skip

    _, outgoing = parse(body)

    assert outgoing is not None
    assert (outgoing.type, outgoing.recipient) == ("interactive", TO)
    assert MARK not in repr(outgoing)


def test_a_member_that_meta_names_has_the_callers_name() -> None:
    names = COMPOSERS["interactiveButtons"].names

    assert names["interactive.action.buttons"] == "buttons"
    assert names["context.message_id"] == "replyToMessageId"
    assert names["to"] == "to"


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("composer", COMPOSERS.values(), ids=COMPOSERS)
def test_every_position_in_graphs_format_is_found_in_metas_errors(composer: Composer) -> None:
    for path in composer.names:
        if not path.endswith("+"):
            assert find_parameter([f"Param {path} is bad"]) == path


values = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.just(MARK),
    lambda held: st.lists(held, max_size=3) | st.dictionaries(st.just(MARK), held, max_size=2),
    max_leaves=6,
)


@given(data=st.data(), body=st.sampled_from(BODIES), value=values, strict=st.booleans())
def test_any_change_is_taken_or_refused_without_quoting_it(
    data: st.DataObject, body: Body, value: Any, strict: bool
) -> None:
    everywhere = [place for place, _ in places(body, COMPOSERS[body["type"]].content)]
    place = data.draw(st.sampled_from(everywhere))

    error = refusal_of(changed(body, place, value), strict=strict)

    if error is not None:
        assert error.message == "Message body is invalid or unsupported."
        assert error.details
        reasons = "".join(each.reason for each in error.details)
        assert MARK not in f"{error} {reasons} {error.__cause__!r}"
