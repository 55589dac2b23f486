import contextlib
from typing import Any

import aiohttp
import pytest

from wats.simulator.control import is_local

PERSON = "15550002222"


async def test_a_customer_can_be_made_to_write(meta: Any, receiver: Any) -> None:
    wish = {"from": PERSON, "name": "Jane", "text": "Hi", "count": 3}

    status, answer = await meta.graph.call("POST", "/_simulator/inbound", wish)
    await meta.simulator.settle()

    assert status == 200
    assert [item["id"] for item in receiver.items("messages")] == answer["ids"]
    assert {item["text"]["body"] for item in receiver.items("messages")} == {"Hi"}
    assert receiver.values()[0]["contacts"] == [{"profile": {"name": "Jane"}, "wa_id": PERSON}]


async def test_any_message_can_be_given(meta: Any, receiver: Any) -> None:
    message = {"type": "reaction", "reaction": {"message_id": "wamid.X", "emoji": "x"}}

    await meta.graph.call("POST", "/_simulator/inbound", {"from": PERSON, "message": message})
    await meta.simulator.settle()

    [item] = receiver.items("messages")
    assert item["reaction"] == message["reaction"]


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"from": PERSON},
        {"text": "Hi"},
        {"from": PERSON, "message": "Hi"},
        {"from": PERSON, "text": "Hi", "count": 0},
        {"from": PERSON, "text": "Hi", "count": "3"},
        {"from": PERSON, "text": "Hi", "group_id": "unknown"},
        [],
    ],
)
async def test_a_wish_that_makes_no_sense_is_refused(meta: Any, wish: object) -> None:
    status, answer = await meta.graph.call("POST", "/_simulator/inbound", wish)

    assert status == 400
    assert set(answer) == {"error"}
    assert meta.simulator.counts.inbound == 0


async def test_a_sender_has_to_be_in_the_group(meta: Any, receiver: Any) -> None:
    group = {"messaging_product": "whatsapp", "subject": "Tea"}
    await meta.graph.call("POST", "/v25.0/200000000000002/groups", group)
    await meta.simulator.settle()
    [item] = receiver.items("groups", "group_lifecycle_update")
    wish = {"from": PERSON, "text": "Hi", "group_id": item["group_id"]}

    before, _ = await meta.graph.call("POST", "/_simulator/inbound", wish)
    joined, _ = await meta.graph.call("POST", "/_simulator/join", wish)
    after, _ = await meta.graph.call("POST", "/_simulator/inbound", wish)

    assert (before, joined, after) == (400, 200, 200)


async def test_the_phone_shows_both_directions(meta: Any) -> None:
    _, written = await meta.graph.call(
        "POST", "/_simulator/inbound", {"from": PERSON, "text": "Hi"}
    )
    context = {"message_id": written["ids"][0]}
    _, sent = await meta.graph.send(PERSON, context=context)
    mark = {"messaging_product": "whatsapp", "status": "read", **context, "typing_indicator": {}}
    await meta.graph.call("POST", "/v25.0/200000000000002/messages", mark)

    status, page = await meta.graph.call("GET", "/_simulator/messages")

    assert status == 200
    assert [(each["type"], each["text"]) for each in page["messages"]] == [
        ("text", "Hi"),
        ("text", "Hello"),
        ("read", "typing…"),
    ]
    assert [each["id"] for each in page["messages"]] == [
        written["ids"][0],
        sent["messages"][0]["id"],
        None,
    ]
    assert page["cursor"] == 3
    assert [each.as_json() for each in meta.simulator.messages] == page["messages"]


@pytest.mark.parametrize("recipient", ["15550000001", "15550000007", "15550000010"])
async def test_a_message_that_fails_is_not_on_the_phone(meta: Any, recipient: str) -> None:
    with contextlib.suppress(aiohttp.ClientError):
        await meta.graph.send(recipient)

    assert meta.simulator.messages == ()


async def test_the_phone_is_read_page_by_page(meta: Any) -> None:
    meta.simulator.inbound(PERSON, "Hi", count=5)
    page: dict[str, Any] = {"cursor": 0}
    cursors = []

    for _ in range(4):
        path = f"/_simulator/messages?after={page['cursor']}&limit=2"
        _, page = await meta.graph.call("GET", path)
        cursors.append([each["cursor"] for each in page["messages"]])

    assert cursors == [[1, 2], [3, 4], [5], []]
    assert page["cursor"] == 5


@pytest.mark.parametrize("query", ["after=x", "after=-1", "limit=", "limit=1.5", "person=1"])
async def test_an_unusable_query_of_messages_is_refused(meta: Any, query: str) -> None:
    status, answer = await meta.graph.call("GET", f"/_simulator/messages?{query}")

    assert (status, set(answer)) == (400, {"error"})


async def test_the_response_has_no_characters_that_control_a_terminal(meta: Any) -> None:
    meta.simulator.inbound(PERSON, "\x1b[2J\x7f\x9b\u202e")

    async with meta.graph.session.get(f"{meta.simulator.url}/_simulator/messages") as response:
        body = await response.text()

    assert body.isprintable()
    assert body.isascii()


async def test_a_line_is_written_for_each_message(meta: Any) -> None:
    lines: list[str] = []
    meta.simulator.show(lines.append)

    await meta.graph.send(PERSON)

    assert [line.split(" ", 1)[1] for line in lines] == [f"15550001111 → {PERSON}: Hello"]


async def test_joining_needs_a_group_and_a_person(meta: Any) -> None:
    status, _ = await meta.graph.call("POST", "/_simulator/join", {"from": PERSON})

    assert status == 400


async def test_the_state_can_be_read(meta: Any) -> None:
    await meta.graph.send(PERSON)
    meta.simulator.inbound(PERSON, "Hi")
    await meta.simulator.settle()

    status, state = await meta.graph.call("GET", "/_simulator/state")

    assert status == 200
    assert (state["sends"], state["inbound"], state["delivered"]) == (1, 1, 4)
    assert (state["requests"], state["pending"], state["groups"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("path", "verify", "verified"),
    [("", True, True), ("/wrong", True, False), ("", False, None)],
)
async def test_the_webhook_can_be_set_and_verified(
    started: Any, receiver: Any, path: str, verify: bool, verified: bool | None
) -> None:
    wish = {"url": receiver.url + path, "verify": verify}

    async with started() as meta:
        status, answer = await meta.graph.call("POST", "/_simulator/webhook", wish)

    assert (status, answer) == (200, {"verified": verified})


async def test_a_webhook_needs_an_http_url(meta: Any) -> None:
    status, _ = await meta.graph.call("POST", "/_simulator/webhook", {"url": "ftp://x"})

    assert status == 400


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"origin": "https://elsewhere.example"}, 403),
        ({"host": "elsewhere.example"}, 403),
        ({"host": "elsewhere.example:9900"}, 403),
        ({"host": "192.0.2.1"}, 403),
        ({"host": "localhost:9900"}, 200),
        ({"host": "[::1]:9900"}, 200),
    ],
)
async def test_a_page_in_a_browser_may_not_control_it(
    meta: Any, headers: dict[str, str], expected: int
) -> None:
    status, _ = await meta.graph.call("GET", "/_simulator/state", headers=headers)

    assert status == expected


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        ("10.0.0.1", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("localhost", False),
        ("", False),
        (None, False),
    ],
)
def test_only_loopback_is_this_machine(peer: str | None, expected: bool) -> None:
    assert is_local(peer) is expected
