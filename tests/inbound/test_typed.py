"""Every leaf of a webhook is kept, and every leaf that Meta documents has a typed attribute."""

import json
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st

from tests.inbound.conftest import CORPUS, RECEIVED_AT
from tests.inbound.shapes import SHAPES, bodies
from tests.inbound.wire import leaves, text_of, untyped, wire
from wats import content
from wats.inbound import fast_path
from wats.inbound.envelope import parse
from wats.inbound.normalize import normalize
from wats.inbound.parts import Part
from wats.inbound.parts import read as read_part
from wats.inbound.typed import CONTENTS, AnyContent
from wats.inbound.updates import Update
from wats.telemetry.contract.values import UpdateKind

ROWS = [json.loads(line) for line in CORPUS.read_text().splitlines()]
REAL = {row["name"]: row["body"] for row in ROWS if row["source"] != "malformed"}

AROUND = {"object", "messaging_product", "time"}
"""Constants, and the time of an entry, which is the one of an update only if its item has none."""

UNTYPED = {
    "message_interactive_unknown_subtype": {"fake_future_reply"},
    "message_future_type": {"fake_future_type"},
    "account_update_unknown_event": {"fake_info"},
    "tracking_events": {"tracking_events", "messaging_product", "metadata"},
    "consumer_profile": {"consumer_profile", "messaging_product", "metadata"},
    "unknown_future_field": {"event", "list"},
    "messaging_handovers_control_passed": {"messaging_product"},
    "messaging_handovers_control_taken": {"messaging_product"},
}
"""Members that no section documents, or that are the same in every webhook."""


def kept(update: Update) -> set[tuple[object, object]]:
    """Return the leaves that *update* has, each with the name of its member."""
    found = [*leaves(update.raw), *leaves(update.contact)]
    named = {(_name(path), text_of(value)) for path, value in found}
    return named | {
        ("id", text_of(update.waba_id)),
        ("field", text_of(update.field)),
        ("phone_number_id", text_of(update.phone_number_id)),
        ("display_phone_number", text_of(update.display_phone_number)),
    }


def _name(path: tuple[str | int, ...]) -> str:
    return next(each for each in reversed(path) if isinstance(each, str))


def test_no_leaf_of_the_corpus_is_lost(read, subtests) -> None:
    for name, body in REAL.items():
        with subtests.test(name):
            found = set().union(*(kept(update) for update in read(body).updates))

            lost = {
                path
                for path, value in leaves(body)
                if (_name(path), text_of(value)) not in found and _name(path) not in AROUND
            }

            assert lost == set() or not read(body).updates


def test_every_documented_leaf_of_the_corpus_has_a_typed_attribute(read, subtests) -> None:
    for name, body in REAL.items():
        with subtests.test(name):
            for update in read(body).updates:
                missing = {
                    path for path in untyped(update) if not UNTYPED.get(name, set()) & {*path}
                }

                assert missing == set()
                assert update.content is None or type(update.content) in CONTENTS[update.kind]


def test_the_exceptions_are_still_exceptions(read) -> None:
    for name, members in UNTYPED.items():
        paths = {path for update in read(REAL[name]).updates for path in untyped(update)}

        assert members <= {each for path in paths for each in path}


ANY_BODY = st.sampled_from(sorted(SHAPES)).flatmap(bodies)


def by_both_paths(body: bytes) -> list[Update]:
    updates = normalize(parse(body), received_at=RECEIVED_AT).updates
    fast = fast_path.read(body, RECEIVED_AT)
    assert fast is None or [fast] == updates
    return updates


@given(body=ANY_BODY)
def test_every_leaf_that_meta_documents_has_a_typed_attribute(body) -> None:
    (update,) = by_both_paths(body)

    assert untyped(update) == set()
    assert update.contact is None or {
        path: text_of(value) for path, value in leaves(wire(update.customer))
    } == {path: text_of(value) for path, value in leaves(update.contact)}


HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.just(10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "null", "253402300800", "-1", "x" * 300, "\u0000", "2025-01-01"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def damaged(value: Any, draw: Any) -> Any:
    """Replace one leaf or branch of *value* by any JSON, or add a member that is not known."""
    if isinstance(value, dict) and value and not draw(st.sampled_from([True, False, False, False])):
        name = draw(st.sampled_from(sorted(value)))
        return {**value, name: damaged(value[name], draw)}
    if isinstance(value, list) and value:
        return [damaged(value[0], draw), *value[1:]]
    if isinstance(value, dict) and draw(st.booleans()):
        return {**value, "not_known_yet": draw(HOSTILE)}
    return draw(HOSTILE)


@given(body=ANY_BODY, data=st.data())
def test_a_damaged_item_never_raises_and_is_kept_unchanged(body, data) -> None:
    envelope = json.loads(body)
    change = envelope["entry"][0]["changes"][0]
    change["value"] = damaged(change["value"], data.draw)
    written = json.dumps(envelope).encode()

    updates = by_both_paths(written)

    for update in updates:
        assert update.content is None or isinstance(update.content, Part)
        assert update.customer is None or isinstance(update.customer, Part)
        assert update.raw in items_in(change["value"])


def items_in(value: Any) -> list[Any]:
    """Return everything in *value* that may be an item: it, its members, and their elements."""
    members = value.items() if isinstance(value, dict) else ()
    listed = [each for _, member in members if isinstance(member, list) for each in member]
    named = [{name: member} for name, member in members]
    return [value, *(member for _, member in members), *listed, *named]


def test_a_list_of_texts_keeps_the_texts_among_other_values() -> None:
    info = read_part(content.CertificationInfo, {"rejection_reasons": ["A", 1, None, {}, "B"]})

    assert info == content.CertificationInfo(rejection_reasons=("A", "1", "B"))


def test_the_union_of_all_contents_is_complete() -> None:
    known = {each for contents in CONTENTS.values() for each in contents}

    assert set(CONTENTS) == set(UpdateKind)
    assert set(get_args(AnyContent)) == known
    assert {each.__name__ for each in known} <= set(content.__all__)
