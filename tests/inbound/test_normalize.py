import json
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wats.clock import EPOCH
from wats.errors import WebhookRefused
from wats.inbound import projection
from wats.inbound.envelope import parse
from wats.inbound.items import SkipReason
from wats.inbound.normalize import FIELDS, MAX_SKIPS, Normalized, Skip, normalize
from wats.inbound.updates import decode, encode
from wats.telemetry.contract.values import UpdateKind

RECEIVED_AT = datetime(2026, 11, 22, 15, 24, 0, 123456, tzinfo=UTC)
CORPUS = Path(__file__).parents[1] / "corpus" / "webhooks.jsonl"
ROWS = [json.loads(line) for line in CORPUS.read_text().splitlines()]
GOOD = [row for row in ROWS if row["source"] != "malformed"]
AROUND = {"messaging_product", "metadata", "contacts"}


def leaves(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield every value that holds no others, with the name of the member that it is in."""
    if isinstance(node, dict):
        for inner, child in node.items():
            yield from leaves(child, inner)
    elif isinstance(node, list):
        for child in node:
            yield from leaves(child, name)
    else:
        yield name, repr(node)


def identities(found: Normalized) -> set[tuple[str, datetime]]:
    return {(update.key, update.occurred_at) for update in found.updates}


def alone(body: Any) -> Iterator[Any]:
    """Give every element of every list of items in *body* an envelope of its own."""
    for entry in body["entry"]:
        for change in entry["changes"]:
            value = change["value"]
            field = FIELDS.get(change["field"])
            listed = [name for name in value if field is not None and name in field.members]
            if not listed or not all(isinstance(value[name], list) for name in listed):
                yield {**body, "entry": [{**entry, "changes": [change]}]}
                continue
            around = {name: value[name] for name in value if name not in listed}
            for name in listed:
                for item in value[name]:
                    only = {**change, "value": {**around, name: [item]}}
                    yield {**body, "entry": [{**entry, "changes": [only]}]}


def kinds_of(body: Any, read: Any) -> list[str]:
    try:
        return sorted(update.kind.value for update in read(body).updates)
    except WebhookRefused:
        return []


def test_a_body_of_the_corpus_gives_the_expected_updates(read, subtests) -> None:
    for row in ROWS:
        with subtests.test(row["name"]):
            assert kinds_of(row["body"], read) == sorted(row["emit"])


def leaves_of_items(body: Any) -> set[tuple[str, str]]:
    return {
        leaf
        for entry in body["entry"]
        for change in entry["changes"]
        for name, member in (change["value"].get("standby") or change["value"]).items()
        if name not in AROUND
        for leaf in leaves(member, name)
    }


def test_no_leaf_of_an_item_is_lost(read, subtests) -> None:
    for row in GOOD:
        with subtests.test(row["name"]):
            found = read(row["body"])

            kept = {leaf for update in found.updates for leaf in leaves(update.raw)}
            assert leaves_of_items(row["body"]) <= kept
            assert {skip.reason for skip in found.skips} <= {SkipReason.DUPLICATE}


def test_an_update_is_the_same_after_it_was_stored_under_its_key(read, subtests) -> None:
    for row in GOOD:
        with subtests.test(row["name"]):
            for update in read(row["body"]).updates:
                assert decode(encode(update)) == update
                assert len(bytes.fromhex(update.key)) == 16


def test_a_redelivery_gives_the_same_keys_and_times(read, subtests) -> None:
    for row in GOOD:
        with subtests.test(row["name"]):
            first = read(row["body"], received_at=RECEIVED_AT)
            later = read(row["body"], received_at=RECEIVED_AT + timedelta(days=6))

            assert identities(first) == identities(later)


def test_items_have_the_same_keys_when_they_are_sent_alone(read, subtests) -> None:
    for row in GOOD:
        with subtests.test(row["name"]):
            together = identities(read(row["body"]))

            apart = {each for body in alone(row["body"]) for each in identities(read(body))}
            assert apart == together


@given(rows=st.lists(st.sampled_from(GOOD), min_size=1, max_size=6), data=st.data())
def test_keys_do_not_depend_on_the_company_that_items_are_sent_in(rows, data) -> None:
    entries = [entry for row in rows for entry in row["body"]["entry"]]
    batch = {"object": "whatsapp_business_account", "entry": data.draw(st.permutations(entries))}

    found = normalize(batch, received_at=RECEIVED_AT)

    alone = [normalize(row["body"], received_at=RECEIVED_AT) for row in rows]
    assert identities(found) == {identity for each in alone for identity in identities(each)}


def test_items_of_several_changes_have_the_same_keys_in_one(body, read) -> None:
    apart = body("message_multiple_in_one_change")
    (change,) = apart["entry"][0]["changes"]
    messages = change["value"]["messages"]
    apart["entry"][0]["changes"] = [
        {**change, "value": {**change["value"], "messages": [message]}} for message in messages
    ]

    assert identities(read(apart)) == identities(read(body("message_multiple_in_one_change")))


def test_the_corpus_holds_no_two_events_of_one_key(read) -> None:
    names: dict[str, set[str]] = {}
    for row in GOOD:
        for update in read(row["body"]).updates:
            names.setdefault(update.key, set()).add(row["name"])

    # The same events, once more: in other company, and with the id of the entry as a number.
    assert sorted(sorted(group) for group in names.values() if len(group) > 1) == [
        ["account_review_update_approved", "envelope_entry_id_integer"],
        ["group_multiple_items", "group_participants_add_via_invite"],
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "malformed_entry_items",
            [
                ("malformed_entry", "entry[0]", "unknown"),
                ("malformed_entry", "entry[1]", "unknown"),
                ("malformed_entry", "entry[2]", "unknown"),
                ("malformed_entry", "entry[3]", "unknown"),
                ("malformed_change", "entry[4].changes[0]", "unknown"),
                ("malformed_change", "entry[4].changes[1]", "unknown"),
                ("malformed_change", "entry[4].changes[2]", "message"),
                ("malformed_change", "entry[4].changes[3]", "message"),
            ],
        ),
        (
            "malformed_message_items",
            [
                ("malformed_item", "entry[0].changes[0].value.messages[0]", "message"),
                ("malformed_item", "entry[0].changes[0].value.messages[1]", "message"),
                ("malformed_id", "entry[0].changes[0].value.messages[2]", "message"),
                ("malformed_id", "entry[0].changes[0].value.messages[3]", "message"),
            ],
        ),
        (
            "malformed_missing_phone_number_id",
            [("missing_phone_number_id", "entry[0].changes[0].value.messages[0]", "message")],
        ),
        (
            "malformed_id_with_control_chars",
            [("malformed_id", "entry[0].changes[0].value.messages[0]", "message")],
        ),
        (
            "message_duplicate_in_envelope",
            [("duplicate", "entry[0].changes[0].value.messages[1]", "message")],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_item_without_an_update_is_reported_with_its_path(name, expected, body, read) -> None:
    skips = read(body(name)).skips

    assert [(skip.reason.value, skip.path, skip.kind.value) for skip in skips] == expected


def envelope(field: Any, value: Any, **entry: Any) -> dict[str, Any]:
    changes = [{"field": field, "value": value}]
    return {
        "object": "whatsapp_business_account",
        "entry": [{"id": "1", "time": 1_750_000_000, "changes": changes, **entry}],
    }


NUMBER = {"phone_number_id": "2"}


@pytest.mark.parametrize("member", ["messages", "statuses", "groups", "calls"])
def test_items_that_need_a_business_number_are_skipped_without_one(member, read) -> None:
    field = {"groups": "group_status_update", "calls": "calls"}.get(member, "messages")

    found = read(envelope(field, {member: [{"id": "a", "event": "connect", "from": "b"}]}))

    assert [skip.reason for skip in found.skips] == [SkipReason.MISSING_PHONE_NUMBER_ID]


@pytest.mark.parametrize("member", ["messages", "statuses", "calls"])
def test_items_that_need_an_id_are_skipped_without_one(member, read) -> None:
    field = "calls" if member == "calls" else "messages"
    item = {"id": "\n", "event": "connect", "from": "b"}

    found = read(envelope(field, {"metadata": NUMBER, member: [item]}))

    assert [skip.reason for skip in found.skips] == [SkipReason.MALFORMED_ID]


def test_a_message_without_any_identity_of_its_sender_is_skipped(read) -> None:
    message = {"id": "a", "type": "text"}

    found = read(envelope("messages", {"metadata": NUMBER, "messages": [message]}))

    assert [skip.reason for skip in found.skips] == [SkipReason.MISSING_SENDER]


@pytest.mark.parametrize("field", [None, 1, "", "  "])
def test_a_change_needs_the_name_of_its_field(field, read) -> None:
    found = read(envelope(field, {}))

    assert found.skips == [
        Skip(SkipReason.MALFORMED_CHANGE, "entry[0].changes[0]", UpdateKind.UNKNOWN)
    ]


def test_an_unknown_field_is_kept_with_its_name(read) -> None:
    (update,) = read(envelope("a_new_field", {"event": "x"})).updates

    assert (update.kind, update.field, update.raw) == (
        UpdateKind.UNKNOWN,
        "a_new_field",
        {"event": "x"},
    )


@pytest.mark.parametrize("field", ["a\nb", "x" * 257])
def test_a_field_whose_name_is_not_safe_is_called_unknown(field, read) -> None:
    (update,) = read(envelope(field, {"event": "x"})).updates

    assert update.field == "unknown"


def test_an_unknown_member_becomes_an_update_of_its_own(read) -> None:
    value = {
        "metadata": NUMBER,
        "messages": [{"id": "a", "from": "b"}],
        "polls": [{"vote": "c"}],
        "version": 2,
        "15550002222": 1,
    }

    found = read(envelope("messages", value))

    assert [(update.kind, update.raw) for update in found.updates[1:]] == [
        (UpdateKind.UNKNOWN, {"polls": [{"vote": "c"}]})
    ]
    assert [(skip.reason, skip.path) for skip in found.skips] == [
        (SkipReason.UNREAD_MEMBER, "entry[0].changes[0].value.version"),
        (SkipReason.UNREAD_MEMBER, "entry[0].changes[0].value"),
    ]


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("group_status_update", UpdateKind.GROUP_STATUS),
        ("user_preferences", UpdateKind.USER_PREFERENCES),
        ("chat_opened", UpdateKind.CHAT_OPENED),
        ("standby", UpdateKind.STANDBY),
        ("history", UpdateKind.HISTORY),
    ],
)
def test_a_value_that_is_an_item_itself_is_taken_as_one(field, kind, read) -> None:
    value = {"metadata": NUMBER, "type": "x", "errors": [{"code": 1}]}

    (update,) = read(envelope(field, value)).updates

    assert (update.kind, update.raw) == (kind, value)


def test_a_value_without_items_is_skipped(read) -> None:
    found = read(envelope("messages", {"metadata": NUMBER, "contacts": []}))

    assert found.skips == [
        Skip(SkipReason.EMPTY_VALUE, "entry[0].changes[0].value", UpdateKind.MESSAGE)
    ]


def test_an_empty_list_of_items_is_not_reported(read) -> None:
    assert read(envelope("messages", {"metadata": NUMBER, "messages": []})) == Normalized([], [])


def test_errors_next_to_messages_are_updates_of_their_own(read) -> None:
    value = {"metadata": NUMBER, "errors": [{"code": 1}, {"code": 2}, "x"], "messages": []}

    found = read(envelope("messages", value))

    assert [(update.kind, update.raw) for update in found.updates] == [
        (UpdateKind.ERROR, {"code": 1}),
        (UpdateKind.ERROR, {"code": 2}),
    ]
    assert [(skip.reason, skip.path) for skip in found.skips] == [
        (SkipReason.MALFORMED_ITEM, "entry[0].changes[0].value.errors[2]")
    ]


def test_errors_next_to_a_call_are_kept_with_the_call(body, read) -> None:
    (update,) = read(body("call_terminate_failed_with_errors")).updates

    assert update.raw["status"] == "FAILED"
    assert [error["code"] for error in update.raw["errors"]] == [138021]


def test_errors_next_to_a_duplicate_call_are_no_update_of_their_own(body, read) -> None:
    twice = body("call_terminate_failed_with_errors")
    twice["entry"] *= 2

    found = read(twice)

    assert len(found.updates) == 1
    assert [skip.reason for skip in found.skips] == [SkipReason.DUPLICATE]


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([], id="no-call"),
        pytest.param([{"id": "", "event": "connect"}], id="broken-call"),
        pytest.param([{"id": "a", "event": "connect", "errors": [{"code": 2}]}], id="errors-too"),
    ],
)
def test_errors_that_no_call_can_take_are_updates_of_their_own(calls, read) -> None:
    value = {"metadata": NUMBER, "calls": calls, "errors": [{"code": 1}]}

    found = read(envelope("calls", value))

    assert {"code": 1} in [update.raw for update in found.updates if update.kind == "error"]


def test_members_next_to_a_standby_wrapper_are_read_too(read) -> None:
    message = {"id": "a", "from": "b"}
    wrapped = {"messages": [message, {"type": "no id"}], "message_echoes": "x"}
    value = {"metadata": NUMBER, "standby": wrapped, "messages": [{**message, "id": "c"}]}

    found = read(envelope("standby", value))

    assert [update.raw.get("id") for update in found.updates] == ["a", None, "c"]
    assert [(skip.reason, skip.path) for skip in found.skips] == [
        (
            SkipReason.MALFORMED_ITEM,
            "entry[0].changes[0].value.standby.message_echoes",
        )
    ]


@pytest.mark.parametrize("value", [[], "x", None, 7])
def test_a_body_that_is_not_an_envelope_gives_one_skip(value) -> None:
    assert normalize(value, received_at=RECEIVED_AT).skips == [
        Skip(SkipReason.MALFORMED_ENTRY, "entry", UpdateKind.UNKNOWN)
    ]


PLACES = ("entry", "changes", "messages", "errors")


@pytest.mark.parametrize("junk", [0, None, "x", [], {}, {"id": "a"}])
@pytest.mark.parametrize("place", PLACES)
def test_an_update_after_any_number_of_broken_parts_is_returned(junk, place) -> None:
    count = 5 * MAX_SKIPS
    broken = {name: [junk] * count if name == place else [] for name in PLACES}
    value = {
        "metadata": NUMBER,
        "messages": [*broken["messages"], {"id": "a", "from": "b"}],
        "errors": [*broken["errors"], {"code": 1}],
    }
    change = {"field": "messages", "value": value}
    entry = {"id": "1", "changes": [*broken["changes"], change]}

    found = normalize({"entry": [*broken["entry"], entry]}, received_at=RECEIVED_AT)

    kinds = {update.kind for update in found.updates}
    assert {UpdateKind.MESSAGE, UpdateKind.ERROR} <= kinds
    assert len(found.skips) <= MAX_SKIPS
    assert sum(found.skipped.values()) + len(found.updates) == count + 2


@pytest.mark.parametrize("contacts", [1, 2])
def test_many_updates_take_no_more_room_than_their_body(contacts, read) -> None:
    contact = {"wa_id": "15550002222", "profile": {"name": "x" * 10_000}}
    calls = [{"id": f"{number}", "event": "ring", "from": "15550002222"} for number in range(500)]
    value = {
        "metadata": NUMBER,
        "contacts": [contact] * contacts,
        "calls": calls,
        "errors": [{"code": 1, "title": "x" * 10_000}],
    }
    body = envelope("calls", value)

    found = read(body)

    assert [update.raw for update in found.updates] == [*calls, *value["errors"]]
    assert sum(len(encode(update)) for update in found.updates) < 10 * len(json.dumps(body))


def test_a_long_contact_is_kept_by_the_few_updates_of_its_change(read) -> None:
    contact = {"wa_id": "15550002222", "profile": {"name": "x" * 10_000}}
    messages = [{"id": f"{number}", "from": "15550002222"} for number in range(8)]
    value = {"metadata": NUMBER, "contacts": [contact], "messages": messages}

    found = read(envelope("messages", value))

    assert [update.contact for update in found.updates] == [contact] * 8


def test_a_contact_next_to_a_long_one_is_not_taken_for_the_only_one(read) -> None:
    long = {"wa_id": "15550002222", "profile": {"name": "x" * 10_000}}
    short = {"wa_id": "15550003333", "profile": {"name": "Anna"}}
    messages = [{"id": f"{number}", "from": "15550002222"} for number in range(9)]
    value = {"metadata": NUMBER, "contacts": [long, short], "messages": messages}

    found = read(envelope("messages", value))

    assert [update.contact for update in found.updates] == [None] * 9


def test_the_first_skips_are_described_and_all_are_counted() -> None:
    entries = [0] * (MAX_SKIPS + 1) + [{"id": "1", "changes": [0, {}]}, 0]

    found = normalize({"entry": entries}, received_at=RECEIVED_AT)

    assert found.skips == [
        Skip(SkipReason.MALFORMED_ENTRY, f"entry[{index}]", UpdateKind.UNKNOWN)
        for index in range(MAX_SKIPS)
    ]
    assert found.skipped == {UpdateKind.UNKNOWN: MAX_SKIPS + 4}


def test_a_skip_is_described_by_its_position_after_others_were_read() -> None:
    message = {"field": "messages", "value": {"metadata": NUMBER, "messages": [{"id": "a"}]}}

    entries = [{"id": "1", "changes": [message, 0, {}]}, 0, {"id": "2"}]
    found = normalize({"entry": entries}, received_at=RECEIVED_AT)

    assert [skip.path for skip in found.skips] == [
        *("entry[0].changes[0].value.messages[0]", "entry[0].changes[1]", "entry[0].changes[2]"),
        *("entry[1]", "entry[2]"),
    ]


def test_more_than_a_thousand_updates_are_all_returned(read) -> None:
    messages = [{"id": f"wamid.{number}", "from": "b"} for number in range(1_500)]

    assert len(read(envelope("messages", {"metadata": NUMBER, "messages": messages})).updates) == (
        1_500
    )


@pytest.mark.parametrize(
    ("timestamp", "time", "expected"),
    [
        pytest.param("1750000010", 1, datetime.fromtimestamp(1_750_000_010, UTC), id="text"),
        pytest.param(1_750_000_010, 1, datetime.fromtimestamp(1_750_000_010, UTC), id="number"),
        pytest.param("soon", 1_750_000_000, datetime.fromtimestamp(1_750_000_000, UTC), id="word"),
        pytest.param(
            "\u0661", "1750000000", datetime.fromtimestamp(1_750_000_000, UTC), id="digit"
        ),
        pytest.param(True, 1_750_000_000, datetime.fromtimestamp(1_750_000_000, UTC), id="boolean"),
        pytest.param("0", 1_750_000_000, datetime.fromtimestamp(1_750_000_000, UTC), id="zero"),
        pytest.param(-5, 1_750_000_000, datetime.fromtimestamp(1_750_000_000, UTC), id="negative"),
        pytest.param(10**12, 5, datetime.fromtimestamp(5, UTC), id="milliseconds"),
        pytest.param("9" * 5_000, 5, datetime.fromtimestamp(5, UTC), id="huge"),
        pytest.param(None, None, EPOCH, id="none-at-all"),
    ],
)
def test_the_time_is_the_items_or_else_the_entrys_and_never_ours(
    timestamp, time, expected, read
) -> None:
    message = {"id": "a", "from": "b", "timestamp": timestamp}
    value = {"metadata": NUMBER, "messages": [message]}

    (update,) = read(envelope("messages", value, time=time)).updates

    assert update.occurred_at == expected


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["1750000000", "wamid.A", "15550002222", "text", "group", "payment", "edit"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["id", "from", "type", "text", "errors", "contacts", "wa_id", "messages", "edit"]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
BODIES = st.one_of(
    JSON,
    st.builds(lambda entry: {"entry": entry}, JSON),
    st.builds(lambda entries: {"entry": entries}, st.lists(JSON)),
    st.builds(
        lambda field, value: envelope(field, {"metadata": NUMBER, **value}),
        st.sampled_from(sorted(FIELDS)),
        st.dictionaries(
            st.sampled_from(
                [*(member for field in FIELDS.values() for member in field.members), "errors"]
            ),
            JSON | st.lists(JSON, max_size=3),
            max_size=3,
        ),
    ),
)


def nodes(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(node, dict | list):
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from nodes(child, (*path, name))


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """Take a body of the corpus and replace or delete some parts."""
    whole = deepcopy(draw(st.sampled_from(ROWS))["body"])
    for _ in range(draw(st.integers(1, 3))):
        paths = [path for path in nodes(whole) if path != ("object",)]
        if not paths:
            break
        *parents, last = draw(st.sampled_from(paths))
        holder = whole
        for name in parents:
            holder = holder[name]
        if draw(st.booleans()):
            del holder[last]
        else:
            holder[last] = draw(JSON)
    return whole


def survives(body: Any) -> None:
    first = normalize(body, received_at=RECEIVED_AT)
    for update in first.updates:
        assert decode(encode(update)) == update
        assert update.message is None or update.status is None
        projection.records(update)
    later = normalize(body, received_at=RECEIVED_AT + timedelta(days=1))
    assert identities(first) == identities(later)
    assert len(identities(first)) == len(first.updates)


@settings(max_examples=4 * settings.default.max_examples)
@given(body=BODIES)
def test_no_json_makes_normalizing_raise(body) -> None:
    survives(msgspec.json.decode(msgspec.json.encode(body)))


@settings(max_examples=4 * settings.default.max_examples)
@given(body=damaged())
def test_no_damage_to_a_real_body_makes_parsing_raise(body) -> None:
    try:
        survives(parse(msgspec.json.encode(body)))
    except WebhookRefused:
        assert (
            not isinstance(body.get("entry"), list)
            or "object" not in body
            or (body["object"] != "whatsapp_business_account")
        )
