"""The responses to callers of the API, byte for byte."""

import json
from typing import Any

import pytest

from wats.testing import BEARER_TOKEN

TOKEN = {"authorization": f"Bearer {BEARER_TOKEN}"}
TOO_DEEP = b"[" * 100_000
GOOD_PHONE = "15550001234"


def error(code: str, message: str, **more: Any) -> bytes:
    document = {"error": {"code": code, "message": message, **more}}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


NOT_FOUND = error("not_found", "Route not found.")
TEXT_INVALID = "Text message body is invalid."
GRAPH_INVALID = "Message body is invalid or unsupported."


@pytest.mark.parametrize(
    ("path", "body", "message", "paths"),
    [
        ("text", [], TEXT_INVALID, ["$"]),
        ("text", {}, TEXT_INVALID, ["to", "text"]),
        ("text", {"to": GOOD_PHONE}, TEXT_INVALID, ["text"]),
        ("text", {"to": GOOD_PHONE, "text": " \n "}, TEXT_INVALID, ["text"]),
        ("text", {"to": GOOD_PHONE, "text": "a\x00b"}, TEXT_INVALID, ["text"]),
        ("text", {"to": GOOD_PHONE, "text": "\U0001f600" * 4097}, TEXT_INVALID, ["text"]),
        ("text", {"to": GOOD_PHONE, "text": 5}, TEXT_INVALID, ["text"]),
        ("text", {"to": GOOD_PHONE, "text": "x", "previewUrl": 1}, TEXT_INVALID, ["previewUrl"]),
        ("text", {"to": "\u0661\u0662", "text": "x"}, TEXT_INVALID, ["to"]),
        ("text", {"to": "x" * 20, "text": "x"}, TEXT_INVALID, ["to"]),
        ("graph", [], GRAPH_INVALID, ["$"]),
        ("graph", {}, GRAPH_INVALID, ["messaging_product", "to", "type"]),
        (
            "graph",
            {"messaging_product": "whatsapp", "to": GOOD_PHONE, "type": "image"},
            GRAPH_INVALID,
            ["type"],
        ),
        (
            "graph",
            {"messaging_product": "whatsapp", "to": GOOD_PHONE, "type": "text", "text": {}},
            GRAPH_INVALID,
            ["text.body"],
        ),
        (
            "graph",
            {
                "messaging_product": "whatsapp",
                "recipient_type": "group",
                "to": "a-group",
                "type": "text",
                "text": {"body": "x"},
            },
            GRAPH_INVALID,
            ["recipient_type"],
        ),
    ],
)
async def test_an_invalid_message_is_refused_with_the_path_of_the_mistake(
    exchange, url, path, body, message, paths
) -> None:
    where = "/api/messages/text" if path == "text" else "/api/messages"

    answer = await exchange(url, "POST", where, json.dumps(body).encode(), TOKEN)

    document = json.loads(answer.body)["error"]
    assert answer.status == 400
    assert list(document) == ["code", "message", "details"]
    assert (document["code"], document["message"]) == ("malformed_body", message)
    assert [detail["path"] for detail in document["details"]] == paths
    assert all(list(detail) == ["path", "reason"] for detail in document["details"])


@pytest.mark.parametrize("path", ["/api/messages/text", "/api/messages"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b'"\xff"', b"NaN", TOO_DEEP], ids=["empty", "cut", "latin", "nan", "deep"]
)
async def test_a_body_that_is_not_json_is_reported_as_such(exchange, url, path, body) -> None:
    answer = await exchange(url, "POST", path, body, TOKEN)

    expected = error("malformed_json", "Request body must be valid JSON.")
    assert (answer.status, answer.body) == (400, expected)


@pytest.mark.parametrize("path", ["/api/messages/text", "/api/messages"])
async def test_bodies_of_the_api_have_a_cap_too(exchange, url, path) -> None:
    answer = await exchange(url, "POST", path, None, {**TOKEN, "content-length": str(2**20 + 1)})

    assert answer.status == 413


@pytest.mark.parametrize("key", ["", " ", "k" * 257, "a\tb", "\xa0"])
async def test_keys_that_cannot_be_used(exchange, url, key) -> None:
    body = json.dumps({"to": GOOD_PHONE, "text": "x"}).encode()
    headers = {**TOKEN, "idempotency-key": key}

    answer = await exchange(url, "POST", "/api/messages/text", body, headers)

    rule = "Idempotency-Key must have 1 to 256 characters on one line, and not only spaces."
    expected = error("invalid_idempotency_key", rule)
    assert (answer.status, answer.body) == (400, expected)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 200),
        ("limit=1", 200),
        ("limit=100", 200),
        ("limit=1&limit=x", 200),
        ("cursor=unknown", 400),
        ("cursor=7", 200),
        ("limit=1&status=sent", 200),
        ("limit=0", 400),
        ("limit=101", 400),
        ("limit=", 400),
        ("limit=1.0", 400),
        ("limit=1e1", 400),
        ("limit=0x1", 400),
        ("limit=-1", 400),
        ("limit=%2B1", 400),
        ("limit=01", 400),
        ("limit=%D9%A1", 400),
        ("cursor=", 400),
        ("cursor=%00", 400),
        ("cursor=" + "c" * 1025, 400),
    ],
)
async def test_the_list_of_messages_and_its_query(exchange, url, query, status) -> None:
    answer = await exchange(url, "GET", f"/api/messages?{query}", headers=TOKEN)

    assert answer.status == status
    if status == 200:
        assert answer.body == b'{"items":[],"nextCursor":null}'
    else:
        document = json.loads(answer.body)["error"]
        expected = (
            "limit must be an integer from 1 to 100."
            if query.startswith("limit")
            else "cursor must be a safe non-empty string."
        )
        assert (document["code"], document["message"]) == ("malformed_query", expected)


async def test_messages_are_paged_newest_first(exchange, gateway) -> None:
    url = gateway.url
    for number in range(5):
        body = json.dumps({"to": f"1555000200{number}", "text": "x"}).encode()
        assert (await exchange(url, "POST", "/api/messages/text", body, TOKEN)).status == 200

    seen, cursor = [], ""
    while cursor is not None:
        path = "/api/messages?limit=2" + (f"&cursor={cursor}" if cursor else "")
        page = json.loads((await exchange(url, "GET", path, headers=TOKEN)).body)
        assert len(page["items"]) <= 2
        seen += page["items"]
        cursor = page["nextCursor"]

    assert [item["toPhone"] for item in seen] == [f"1555000200{n}" for n in (4, 3, 2, 1, 0)]
    assert list(seen[0]) == [
        *("rowId", "phoneNumberId", "waMessageId", "direction", "fromPhone", "toPhone", "type"),
        *("status", "graphMessageId", "createdAt", "updatedAt"),
    ]


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("wamid.UNKNOWN", 404, error("not_found", "Message not found.")),
        ("a/b", 404, error("not_found", "Message not found.")),
        ("a%2Fb%3D", 404, error("not_found", "Message not found.")),
        ("", 400, error("malformed_path", "Message id must be a safe non-empty string.")),
        ("%20", 400, error("malformed_path", "Message id must be a safe non-empty string.")),
        ("%00", 400, error("malformed_path", "Message id must be a safe non-empty string.")),
        ("a" * 1025, 400, error("malformed_path", "Message id must be a safe non-empty string.")),
        ("%", 400, error("malformed_path", "Message id segment is invalid.")),
        ("%zz", 400, error("malformed_path", "Message id segment is invalid.")),
        ("%ff", 400, error("malformed_path", "Message id segment is invalid.")),
    ],
)
async def test_a_message_that_is_not_there(exchange, url, path, status, body) -> None:
    answer = await exchange(url, "GET", f"/api/messages/{path}", headers=TOKEN)

    assert (answer.status, answer.body) == (status, body)


async def test_a_message_is_found_by_its_id_however_it_is_encoded(exchange, gateway) -> None:
    wamid = (await gateway.send_text(GOOD_PHONE)).json["messages"][0]["id"]
    encoded = "".join(f"%{ord(letter):02X}" for letter in wamid)

    found = await exchange(gateway.url, "GET", f"/api/messages/{encoded}", headers=TOKEN)
    plain = await exchange(gateway.url, "GET", f"/api/messages/{wamid}", headers=TOKEN)
    head = await exchange(gateway.url, "HEAD", f"/api/messages/{wamid}", headers=TOKEN)

    assert (found.status, plain.status, head.status) == (200, 200, 200)
    assert json.loads(found.body)["waMessageId"] == json.loads(plain.body)["waMessageId"] == wamid
    assert head.body == b""
    # A status can arrive between the requests, and the history only grows.
    assert int(head["content-length"]) >= len(plain.body)


CLOSED = b'{"open":false,"lastInboundAt":null,"expiresAt":null,"remainingMs":0}'
NO_PHONE = error(
    "malformed_path", "phone must be digits with an optional leading +, 1..15 characters."
)


@pytest.mark.parametrize(
    ("phone", "status", "body"),
    [
        ("15550001234", 200, CLOSED),
        ("+15550001234", 200, CLOSED),
        ("%2B15550001234", 200, CLOSED),
        ("1" * 15, 200, CLOSED),
        ("1" * 16, 400, NO_PHONE),
        ("abc", 400, NO_PHONE),
        ("+", 400, NO_PHONE),
        ("1/2", 400, NO_PHONE),
        ("%D9%A1", 400, NO_PHONE),
        ("1%0A", 400, NO_PHONE),
        ("%", 400, error("malformed_path", "phone path segment is invalid.")),
        ("", 404, NOT_FOUND),
    ],
)
async def test_the_window_of_a_customer(exchange, url, phone, status, body) -> None:
    answer = await exchange(url, "GET", f"/api/conversations/{phone}/window", headers=TOKEN)

    assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/groups", 200, None),
        ("PUT", "/api/groups", 405, "method_not_allowed"),
        ("POST", "/api/groups", 400, "malformed_json"),
        ("GET", "/api/groups?limit=", 400, "malformed_query"),
        ("GET", "/api/groups/", 404, "not_found"),
        ("GET", "/api/groups/g1/nope", 404, "not_found"),
        ("GET", "/api/groups/g1/", 404, "not_found"),
        ("GET", "/api/groups/%ff", 404, "not_found"),
        ("GET", "/api/groups/a%2Fb", 404, "not_found"),
        ("GET", "/api/groups/a%3Fb", 400, "malformed_body"),
        ("GET", "/api/groups/15551234567", 400, "malformed_body"),
        ("GET", "/api/groups/g1/participants", 405, "method_not_allowed"),
        ("DELETE", "/api/groups/g1/participants", 400, "malformed_json"),
        ("PATCH", "/api/groups/g1/join-requests", 405, "method_not_allowed"),
    ],
)
async def test_the_groups_when_they_are_enabled(
    exchange, groups_url, method, path, status, code
) -> None:
    known = await exchange(groups_url, method, path, headers=TOKEN)
    anonymous = await exchange(groups_url, method, path)

    assert known.status == status
    assert code is None or json.loads(known.body)["error"]["code"] == code
    # An unknown path below the groups is not one of their routes; everything else is closed first.
    is_route = path.count("/") == 2 or not path.endswith(("/", "nope"))
    assert anonymous.status == (401 if is_route else 404)
