"""The JSON of request bodies: its encoding, its limits, and the keys of our own bodies."""

import gzip
from itertools import product
from typing import Any

import msgspec
import pytest

from tests.process.http.wire import HOOK
from wats.nesting import MAX_DEPTH
from wats.testing import APP_SECRET, sign

GROUP = "Y2FwaV9ncm91cA"
TEXT = {"to": "15550001234", "text": "Hello"}
GRAPH = {
    "messaging_product": "whatsapp",
    "to": "15550001234",
    "type": "text",
    "text": {"body": "!"},
}
MARKETING = {
    "messaging_product": "whatsapp",
    "to": "15550001234",
    "type": "template",
    "template": {"name": "sale", "language": {"code": "en"}},
}
OWN = [
    ("POST", "/api/messages/text", TEXT, "to, text, previewUrl"),
    ("POST", "/api/groups", {"subject": "s"}, "subject, description, joinApprovalMode"),
    ("POST", f"/api/groups/{GROUP}", {"subject": "s"}, "subject, description, joinApprovalMode"),
    ("DELETE", f"/api/groups/{GROUP}/participants", {"waIds": ["1"]}, "waIds"),
    ("POST", f"/api/groups/{GROUP}/join-requests", {"joinRequestIds": ["1"]}, "joinRequestIds"),
    ("DELETE", f"/api/groups/{GROUP}/join-requests", {"joinRequestIds": ["1"]}, "joinRequestIds"),
]
ROUTES = [
    *((method, path, body) for method, path, body, _ in OWN),
    ("POST", "/api/messages", GRAPH),
    ("POST", "/api/marketing_messages", MARKETING),
]
MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_a_byte_order_mark_is_ignored_and_never_sent_to_meta(
    service: Any, method: str, path: str, body: Any
) -> None:
    data = msgspec.json.encode(body)

    answers = [await service.ask(method, path, text) for text in (data, MARK + data)]

    assert [answer.status for answer in answers] == [200, 200]
    one, other = service.graph.asked
    assert one.body == other.body


async def test_a_byte_order_mark_does_not_make_another_request(service: Any) -> None:
    data = msgspec.json.encode(GRAPH)

    answers = [
        await service.ask("POST", "/api/messages", text, key="k") for text in (data, MARK + data)
    ]

    assert [answer.status for answer in answers] == [200, 200]
    assert len(service.graph.asked) == 1


async def test_a_byte_order_mark_of_a_webhook_is_signed_and_ignored(service: Any) -> None:
    data = MARK + b'{"object":"whatsapp_business_account","entry":[]}'
    signed = {"x-hub-signature-256": sign(data, APP_SECRET)}

    answer = await service.ask("POST", HOOK, data, token=None, **signed)

    assert answer.status == 200


ADMIN = [
    ("POST", "/api/updates/ack", {"updates": [{"receipt": "2gALpWJhdGNo"}]}),
    ("POST", "/api/admin/deliveries/retry", {"ids": ["1"]}),
]


@pytest.mark.parametrize(("method", "path", "body"), ADMIN)
async def test_a_byte_order_mark_is_ignored_in_bodies_about_deliveries(
    service: Any, method: str, path: str, body: Any
) -> None:
    answer = await service.ask(method, path, MARK + msgspec.json.encode(body))

    assert answer.status == 200


async def test_a_compressed_body_is_refused(service: Any, subtests: pytest.Subtests) -> None:
    for method, path, body in (*ROUTES, *ADMIN):
        data = gzip.compress(msgspec.json.encode(body))

        with subtests.test(f"{method} {path}"):
            answer = await service.ask(method, path, data, **{"content-encoding": "gzip"})

            assert (answer.status, answer.code) == (415, "unsupported_media_type")
            assert [each["path"] for each in answer.json["error"]["details"]] == [
                "content-encoding"
            ]
    assert service.graph.asked == []


@pytest.mark.parametrize("coding", ["", "identity", "Identity", "utf-8"])
async def test_a_body_with_a_coding_that_is_not_a_compression_is_read(
    service: Any, coding: str
) -> None:
    method, path, body = ADMIN[0]

    answer = await service.ask(
        method, path, msgspec.json.encode(body), **{"content-encoding": coding}
    )

    assert answer.status == 200


async def test_a_body_that_is_too_large_gets_its_limit(service: Any) -> None:
    answer = await service.ask("POST", "/api/messages/text", b" " * 1_048_577)

    assert (answer.status, answer.code) == (413, "payload_too_large")
    assert answer.json["error"]["message"] == "The body is larger than 1048576 bytes."


INVALID = {
    "half a pair": b'"\\ud800"',
    "pair in the wrong order": b'"\\udc00\\ud800"',
    "encoded half": b'"\xed\xa0\x80"',
    "not UTF-8": b'"\xff"',
    "too large": b"1e999",
    "not a number": b"NaN",
    "infinity": b"-Infinity",
    "too many digits": b"9" * 5000,
    "too deep": b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    "byte order mark inside": MARK + b"1",
}


async def test_json_is_strict_on_every_route(service: Any, subtests: pytest.Subtests) -> None:
    for (method, path, body), (name, value) in product(ROUTES, INVALID.items()):
        with subtests.test(f"{method} {path}: {name}"):
            data = msgspec.json.encode(body)[:-1] + b',"more":' + value + b"}"

            answer = await service.ask(method, path, data)

            assert (answer.status, answer.code) == (400, "malformed_json")
            assert service.graph.asked == []


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_json_may_be_as_deep_as_allowed(
    service: Any, method: str, path: str, body: Any
) -> None:
    inside = MAX_DEPTH - 1
    data = msgspec.json.encode(body)[:-1] + b',"more":' + b"[" * inside + b"]" * inside + b"}"

    assert (await service.ask(method, path, data)).status == 200


@pytest.mark.parametrize(("method", "path", "body", "keys"), OWN)
async def test_unknown_keys_are_ignored_unless_the_client_prefers_strict_handling(
    service: Any, method: str, path: str, body: Any, keys: str
) -> None:
    sent = {**body, "preveiwUrl": True, "15550001234": 1, "a key": {}}

    lenient = await service.ask(method, path, sent)
    strict = await service.ask(method, path, sent, prefer="handling=strict")

    assert lenient.status == 200
    assert (strict.status, strict.code) == (400, "malformed_body")
    reason = f"is not a key of this request; its keys are {keys}"
    assert strict.json["error"]["details"] == [
        {"path": path, "reason": reason} for path in ("preveiwUrl", "?", "?")
    ]
    assert len(service.graph.asked) == 1


async def test_strict_handling_reports_unknown_keys_and_other_mistakes_together(
    service: Any,
) -> None:
    sent = {"to": "x", "text": "Hello", "subject": "s"}

    answer = await service.ask("POST", "/api/messages/text", sent, prefer="handling=strict")

    assert [each["path"] for each in answer.json["error"]["details"]] == ["to", "subject"]


async def test_a_known_body_is_accepted_with_strict_handling(service: Any) -> None:
    sent = {**TEXT, "previewUrl": False}

    answer = await service.ask("POST", "/api/messages/text", sent, prefer="handling=strict")

    assert answer.status == 200


async def test_keys_in_the_format_of_graph_are_never_refused(service: Any) -> None:
    sent = {**GRAPH, "biz_opaque_callback_data": "x"}

    answer = await service.ask("POST", "/api/messages", sent, prefer="handling=strict")

    assert answer.status == 200


async def test_the_preference_is_a_list_of_which_the_first_counts(
    service: Any, subtests: pytest.Subtests
) -> None:
    preferences = {
        "handling=strict": True,
        "Handling = Strict": True,
        'handling="strict"': True,
        "respond-async, handling=strict;x=1": True,
        "handling=strict, handling=lenient": True,
        "handling=lenient, handling=strict": False,
        "handling=lenient": False,
        "handling": False,
        "xhandling=strict": False,
        "": False,
    }
    for prefer, is_strict in preferences.items():
        with subtests.test(prefer):
            answer = await service.ask(
                "POST", "/api/messages/text", {**TEXT, "x": 1}, prefer=prefer
            )

            assert (answer.status == 400) is is_strict
