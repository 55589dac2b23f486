import copy
import json
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from wats.errors import WebhookRefused
from wats.inbound import fast_path, projection
from wats.inbound.envelope import parse
from wats.inbound.normalize import Normalized, normalize
from wats.inbound.updates import Update, decode, encode
from wats.nesting import MAX_DEPTH

RECEIVED_AT = datetime(2026, 11, 22, 15, 24, 0, 123456, tzinfo=UTC)
CORPUS = Path(__file__).parents[1] / "corpus" / "webhooks.jsonl"
BODIES = {row["name"]: row["body"] for row in map(json.loads, CORPUS.read_text().splitlines())}

# Several items in one webhook, groups, payments, and types that have a kind of their own or change
# an earlier message take the slow path.
SLOW = (
    "message_duplicate_in_envelope",
    "message_echoes",
    "message_edit",
    "message_future_type",
    "message_group",
    "message_and_status",
    "message_multiple",
    "message_request_welcome",
    "message_revoke",
    "message_system",
    "message_user_actions",
    "message_value_errors",
    "status_group",
    "status_multiple",
    "status_payment",
    "status_sent_and_delivered",
)
USUAL = [
    name
    for name in BODIES
    if name.startswith(("message_", "status_", "envelope_entry_id_zero"))
    and not name.startswith(SLOW)
]


def written(body: Any) -> bytes:
    """Return *body* as Meta writes it: without spaces, ASCII only, slashes escaped."""
    return json.dumps(body, separators=(",", ":")).replace("/", "\\/").encode()


def by_slow_path(body: bytes) -> Normalized | None:
    try:
        return normalize(parse(body), received_at=RECEIVED_AT)
    except WebhookRefused:
        return None


def assert_both_paths_agree(body: bytes) -> None:
    """Compare the paths; the record and the payload before `raw` of the update was accessed."""
    update = fast_path.read(body, RECEIVED_AT)
    if update is None:
        return
    found = by_slow_path(body)
    assert found is not None
    assert not found.skips
    (expected,) = found.updates
    assert projection.records(update) == projection.records(expected)
    assert projection.status_record(update) == projection.status_record(expected)
    assert decode(encode(update)) == expected
    assert msgspec.structs.astuple(expected) == tuple(
        getattr(update, name) for name in Update.__struct_fields__
    )
    assert (update.message, update.status) == (expected.message, expected.status)
    assert update == expected
    assert encode(update) == encode(expected)


def test_both_paths_give_the_same_update_for_a_body_of_the_corpus(subtests) -> None:
    for name, body in BODIES.items():
        with subtests.test(name):
            assert_both_paths_agree(written(body))
            assert_both_paths_agree(json.dumps(body, indent=1, ensure_ascii=False).encode())


def test_the_usual_webhooks_of_the_corpus_take_the_fast_path_and_no_others(subtests) -> None:
    for name, body in BODIES.items():
        with subtests.test(name):
            is_fast = fast_path.read(written(body), RECEIVED_AT) is not None

            assert is_fast == (name in USUAL)


ODD_TEXTS = st.sampled_from(
    [
        "",
        " ",
        "a b",
        "a\nb",
        "a\x00b",
        "\x7f",
        "\u2028",
        "\u0661\u0662",
        "\ud83d",
        "\ude00x",
        "\U0001f600",
        "x" * 256,
        "x" * 257,
        "0",
        "-1",
        "+1",
        " 1750000000",
        "1750000000.0",
        "0001750000000",
        "253402300799",
        "253402300800",
        "9" * 13,
        "9" * 5_000,
        "messages",
        "payment",
        "group",
        "individual",
        "system",
        "edit",
        "whatsapp_business_account",
        "15550002222",
    ]
)
ODD_VALUES = (
    ODD_TEXTS
    | st.sampled_from([None, True, False, 0, 1, -1, 1.0, 0.5, 1_750_000_000, 1_750_000_000.0])
    | st.sampled_from([2**31, 10**32, 10**400, 253_402_300_800, [], {}, [None], [[]], {"a": []}])
    | st.sampled_from([{"phone_number_id": "1"}, {"wa_id": "15550002222", "user_id": "U"}])
    | st.sampled_from([[{"code": 131047}], [{"code": "131047"}], [7]])
    | st.text()
    | st.integers()
)


def nodes_in(node: Any) -> Iterator[Any]:
    """Yield every object and array in *node* that has members."""
    if isinstance(node, dict | list) and node:
        yield node
        for child in node.values() if isinstance(node, dict) else node:
            yield from nodes_in(child)


def objects_in(node: Any) -> list[dict[str, Any]]:
    return [each for each in nodes_in(node) if isinstance(each, dict)]


NAMES = st.sampled_from(
    sorted({name for body in BODIES.values() for node in objects_in(body) for name in node})
)


@st.composite
def changed_bodies(draw: st.DrawFn) -> Any:
    """Draw a usual body in which some members are replaced, removed, added or repeated."""
    body = copy.deepcopy(BODIES[draw(st.sampled_from(USUAL))])
    for _ in range(draw(st.integers(0, 3))):
        assume(body)
        node = draw(st.sampled_from(list(nodes_in(body))))
        place = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        match draw(st.sampled_from(["replace", "remove", "add", "repeat"])):
            case "replace":
                node[place] = copy.deepcopy(draw(ODD_VALUES))
            case "remove":
                del node[place]
            case "add" if isinstance(node, dict):
                node[draw(NAMES)] = copy.deepcopy(draw(ODD_VALUES))
            case "repeat" if isinstance(node, list):
                node.append(copy.deepcopy(node[place]))
    return body


WRITERS = st.sampled_from(
    [
        written,
        lambda body: json.dumps(body, indent=2).encode(),
        lambda body: json.dumps(body, ensure_ascii=False).encode(errors="replace"),
        lambda body: json.dumps(body, ensure_ascii=False).encode(errors="surrogatepass"),
    ]
)


@settings(max_examples=6 * settings.default.max_examples)
@given(body=changed_bodies(), write=WRITERS)
def test_both_paths_give_the_same_update_for_a_changed_body(body, write) -> None:
    assert_both_paths_agree(write(body))


def mostly_first(values: list[Any]) -> st.SearchStrategy[Any]:
    """Draw the first of *values* in most cases."""
    return st.sampled_from([values[0]] * 4 * len(values) + values)


def objects_of(required: dict[str, list[Any]], *optional: str) -> st.SearchStrategy[Any]:
    """Draw objects with the *required* members, and any of the *optional* ones with an id."""
    ids = st.sampled_from(["15550002222", "U1", "U2", "U3"]) | mostly_first(
        ["a b", "a\nb", "", None]
    )
    return st.fixed_dictionaries(
        {name: mostly_first(values) for name, values in required.items()},
        optional=dict.fromkeys(optional, ids),
    )


CONTACTS = objects_of({}, "wa_id", "user_id", "parent_user_id", "profile")
MESSAGES = objects_of(
    {
        "id": ["wamid.1", "15", "\n"],
        "timestamp": ["1750000000", "0", "x"],
        "type": ["text", "system", "request_welcome", "edit", "revoke", "future", "a\nb", ""],
    },
    "from",
    "from_user_id",
    "from_parent_user_id",
    "text",
)
STATUSES = objects_of(
    {
        "id": ["wamid.1", "15", "\n"],
        "timestamp": ["1750000000", "0", "x"],
        "status": ["sent", "failed", "future", "a\nb", ""],
        "recipient_type": ["individual", "group", "other", None],
        "errors": [None, [], [{"code": 7}], [{"code": "7"}], [7], {}],
    },
    "recipient_id",
    "recipient_user_id",
    "recipient_parent_user_id",
)


def lists_of(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw mostly lists of one item, and others that a value may have in their place."""
    one = st.tuples(items).map(list)
    return one | one | one | one | st.lists(items, max_size=2) | st.sampled_from([None, [None]])


VALUES = st.fixed_dictionaries(
    {"metadata": st.just({"phone_number_id": "1"})}, optional={"contacts": lists_of(CONTACTS)}
)


@settings(max_examples=6 * settings.default.max_examples)
@example(
    value={"metadata": {"phone_number_id": "1"}, "contacts": [{"user_id": "U2"}]},
    items={
        "messages": [
            {"id": "wamid.1", "timestamp": "1750000000", "type": "text", "from_user_id": "U1"}
        ]
    },
)
@given(
    value=VALUES,
    items=st.fixed_dictionaries({"messages": lists_of(MESSAGES)})
    | st.fixed_dictionaries({"statuses": lists_of(STATUSES)}),
)
def test_both_paths_give_the_same_update_whichever_members_name_the_customer(value, items) -> None:
    change = {"field": "messages", "value": {**value, **items}}
    entry = {"id": "1", "changes": [change]}

    assert_both_paths_agree(written({"object": "whatsapp_business_account", "entry": [entry]}))


TOKENS = st.sampled_from(
    [
        b"",
        b"\x00",
        b"\xff",
        b"\xe2\x82",
        b"\xef\xbb\xbf",
        b"\xed\xa0\xbd",
        b"\\ud83d",
        b"\\uDE00",
        b"\\ud83d\\ude00",
        b"\\u0000",
        b"\\u0069d",
        b"\\q",
        b"\n",
        b" ",
        b"1e999",
        b"-0",
        b"01",
        b"NaN",
        b"1" * 400,
        b"null",
        b"[]",
        b"{}",
        b",",
        b'"',
        b'"id":"wamid.OTHER",',
        b'"id":7,',
        b'"i\\u0064":"wamid.OTHER",',
        b'"from":"15550009999",',
        b'"from":null,',
        b'"type":"system",',
        b'"timestamp":"1",',
        b'"messages":[],',
        b'"statuses":[],',
        b'"contacts":[],',
        b'"contacts":null,',
        b'"entry":[],',
        b'"text":1e999,',
        b'"text":{"body":"\xff"},',
        b'"unknown":"\\ud83d",',
        b'"profile":{"name":"\\ud83d"},',
        b'"text":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b",",
        b'"text":' + b"[" * 490 + b"]" * 490 + b",",
    ]
)


@st.composite
def damaged_bodies(draw: st.DrawFn) -> bytes:
    """Draw the bytes of a usual body in which tokens are inserted or replaced."""
    body = written(BODIES[draw(st.sampled_from(USUAL))])
    for _ in range(draw(st.integers(1, 3))):
        openings = [place + 1 for place, byte in enumerate(body) if byte in b'{[:,"']
        start = draw(st.sampled_from(openings) | st.integers(0, len(body)))
        end = start + draw(st.just(0) | st.integers(0, 20))
        body = body[:start] + draw(TOKENS) + body[end:]
    return body


@settings(max_examples=10 * settings.default.max_examples)
@given(body=damaged_bodies())
def test_both_paths_give_the_same_update_for_a_damaged_body(body) -> None:
    assert_both_paths_agree(body)


@st.composite
def duplicated_members(draw: st.DrawFn) -> bytes:
    """Draw a usual body in which an object has one of its members twice."""
    body = copy.deepcopy(BODIES[draw(st.sampled_from(USUAL))])
    node = draw(st.sampled_from(objects_in(body)))
    name = draw(st.sampled_from(list(node)))
    places = st.sampled_from(list(node))
    node["TWICE"] = draw(ODD_VALUES | st.just(node[name]))
    order = draw(places)
    if order != "TWICE":
        node[order] = node.pop(order)
    return written(body).replace(b'"TWICE"', json.dumps(name).encode())


@settings(max_examples=3 * settings.default.max_examples)
@given(body=duplicated_members())
def test_both_paths_read_the_same_one_of_two_members_with_one_name(body) -> None:
    assert_both_paths_agree(body)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(b"1e999", id="number-out-of-range"),
        pytest.param(b"9" * 5_000, id="number-of-5000-digits"),
        pytest.param(b'"\xff"', id="not-utf-8"),
        pytest.param(b'"\\ud83d"', id="half-of-a-surrogate-pair"),
        pytest.param(b"[" * 600 + b"]" * 600, id="nested-too-deep"),
    ],
)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(b'"object":', id="envelope"),
        pytest.param(b'"id":"100000000000001",', id="entry"),
        pytest.param(b'"field":', id="change"),
        pytest.param(b'"messaging_product":', id="value"),
        pytest.param(b'"phone_number_id":', id="metadata"),
        pytest.param(b'"wa_id":', id="contact"),
        pytest.param(b'"name":', id="profile"),
        pytest.param(b'"timestamp":', id="item"),
        pytest.param(b'"body":', id="content"),
    ],
)
def test_no_value_is_skipped_without_validation(token, place, subtests) -> None:
    body = written(BODIES["message_text"])
    assert body.count(place) == 1

    for name in (b"unknown", b"time", b"profile", b"text"):
        with subtests.test(name.decode()):
            damaged = body.replace(place, b'"%b":%b,%b' % (name, token, place))

            assert fast_path.read(damaged, RECEIVED_AT) is None


@pytest.mark.parametrize("name", ["message_text", "status_sent"])
def test_an_update_of_the_fast_path_behaves_like_one_of_the_slow_path(name, update) -> None:
    def fast() -> Update:
        found = fast_path.read(written(BODIES[name]), RECEIVED_AT)
        assert found is not None
        return found

    slow = msgspec.structs.replace(update(name), received_at=RECEIVED_AT)

    assert isinstance(fast(), Update)
    assert fast() == slow
    assert slow == fast()
    assert fast() == fast()
    assert [fast() != slow, slow != fast()] == [False, False]
    assert fast() != msgspec.structs.replace(slow, key="0" * 32)
    assert fast() != name
    assert repr(fast()) == repr(slow)
    assert copy.copy(fast()) == slow
    assert copy.deepcopy(fast()) == slow
    assert pickle.loads(pickle.dumps(fast())) == slow  # noqa: S301
    assert msgspec.json.decode(msgspec.json.encode(fast())) == msgspec.json.decode(encode(slow))
    with pytest.raises(TypeError):
        hash(fast())
    with pytest.raises(AttributeError):
        fast().raw = {}


def test_a_change_of_raw_is_kept_and_shared_as_on_the_slow_path() -> None:
    update = fast_path.read(written(BODIES["message_text"]), RECEIVED_AT)
    assert update is not None

    update.raw["note"] = "mine"
    update.contact["note"] = "mine"

    assert (update.raw["note"], update.contact["note"]) == ("mine", "mine")
    assert decode(encode(update)).raw["note"] == "mine"


def test_a_replaced_item_replaces_the_record() -> None:
    update = fast_path.read(written(BODIES["message_text"]), RECEIVED_AT)
    assert update is not None

    changed = msgspec.structs.replace(update, raw={"id": "wamid.OTHER", "type": "image"})

    assert changed.raw == {"id": "wamid.OTHER", "type": "image"}
    record = projection.records(changed).message
    assert (record.wa_message_id, record.type) == ("wamid.OTHER", "image")


@pytest.mark.parametrize("name", ["message_text", "status_sent"])
def test_records_and_payload_do_not_decode_the_item(name) -> None:
    update = fast_path.read(written(BODIES[name]), RECEIVED_AT)
    assert update is not None

    projection.records(update)
    payload = encode(update)

    raw = vars(Update)["raw"]
    assert isinstance(raw.__get__(update), msgspec.Raw)
    assert bytes(raw.__get__(update)) in payload
