import json
from itertools import product
from typing import Any

import pytest

GROUP = "Y2FwaV9ncm91cA"


async def test_groups_are_listed_in_camel_case(service: Any) -> None:
    service.graph.body = {
        "data": {"groups": [{"id": "g", "created_at": 1}]},
        "paging": {"cursors": {"after": "x_y"}},
    }

    answer = await service.ask("GET", "/api/groups?limit=10&after=a%2Cb&before=c&other=d")

    assert answer.json == {
        "data": {"groups": [{"id": "g", "createdAt": 1}]},
        "paging": {"cursors": {"after": "x_y"}},
    }
    (asked,) = service.graph.asked
    assert (asked.method, asked.path) == ("GET", "/v25.0/15551234567/groups")
    assert asked.query == {"limit": "10", "after": "a,b", "before": "c"}
    assert asked.body == b""


async def test_the_link_to_a_next_page_of_groups_does_not_hold_the_access_token(
    service: Any,
) -> None:
    await service.ask("GET", "/api/groups")
    token = service.graph.received_headers["authorization"].removeprefix("Bearer ")
    proof = service.graph.proofs[0]
    link = "https://graph.facebook.com/v25.0/1/groups?access_token="
    service.graph.body = {
        "paging": {"next": f"{link}{token}&appsecret_proof={proof}&limit=1&after=A"}
    }

    answer = await service.ask("GET", "/api/groups?limit=1")

    assert answer.json["paging"]["next"] == f"{link}&appsecret_proof=&limit=1&after=A"


async def test_a_group_keeps_its_participants_whole(service: Any) -> None:
    service.graph.body = {"participants": [{"wa_id": "1", "user_name": "b_c", "is_admin": True}]}

    answer = await service.ask("GET", f"/api/groups/{GROUP}?fields=participants")

    assert answer.json == {"participants": [{"waId": "1", "userName": "b_c", "isAdmin": True}]}
    assert service.graph.asked[0].path == f"/v25.0/{GROUP}"
    assert service.graph.asked[0].query == {"fields": "participants"}


REQUESTS = [
    pytest.param(
        "POST",
        "/api/groups",
        {"joinApprovalMode": "auto_approve", "description": "a\nb", "subject": "s"},
        "/15551234567/groups",
        b'{"messaging_product":"whatsapp","subject":"s","description":"a\\nb",'
        b'"join_approval_mode":"auto_approve"}',
        id="create",
    ),
    pytest.param(
        "POST",
        f"/api/groups/{GROUP}",
        {"subject": "s"},
        f"/{GROUP}",
        b'{"messaging_product":"whatsapp","subject":"s"}',
        id="update",
    ),
    pytest.param("DELETE", f"/api/groups/{GROUP}", None, f"/{GROUP}", b"", id="delete"),
    pytest.param(
        "GET",
        f"/api/groups/{GROUP}/invite-link",
        None,
        f"/{GROUP}/invite_link",
        b"",
        id="get-link",
    ),
    pytest.param(
        "POST",
        f"/api/groups/{GROUP}/invite-link",
        b"not read",
        f"/{GROUP}/invite_link",
        b'{"messaging_product":"whatsapp"}',
        id="reset-link",
    ),
    pytest.param(
        "DELETE",
        f"/api/groups/{GROUP}/participants",
        {"waIds": ["1", "2"]},
        f"/{GROUP}/participants",
        b'{"messaging_product":"whatsapp","participants":[{"user":"1"},{"user":"2"}]}',
        id="remove",
    ),
    pytest.param(
        "GET",
        f"/api/groups/{GROUP}/join-requests",
        None,
        f"/{GROUP}/join_requests",
        b"",
        id="list-requests",
    ),
    pytest.param(
        "POST",
        f"/api/groups/{GROUP}/join-requests",
        {"joinRequestIds": ["a"]},
        f"/{GROUP}/join_requests",
        b'{"messaging_product":"whatsapp","join_requests":["a"]}',
        id="approve",
    ),
    pytest.param(
        "DELETE",
        f"/api/groups/{GROUP}/join-requests",
        {"joinRequestIds": ["a", "b"]},
        f"/{GROUP}/join_requests",
        b'{"messaging_product":"whatsapp","join_requests":["a","b"]}',
        id="reject",
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "graph_path", "payload"), REQUESTS)
async def test_meta_gets_its_own_form(
    service: Any, method: str, path: str, body: Any, graph_path: str, payload: bytes
) -> None:
    service.graph.body = {"messaging_product": "whatsapp", "request_id": "r_1"}

    answer = await service.ask(method, path, body)

    assert answer.body == b'{"messagingProduct":"whatsapp","requestId":"r_1"}'
    (asked,) = service.graph.asked
    assert (asked.method, asked.path) == (method, f"/v25.0{graph_path}")
    assert asked.body == payload


@pytest.mark.parametrize(
    ("method", "path", "body", "paths"),
    [
        ("POST", "/api/groups", {}, ["subject"]),
        ("POST", "/api/groups", [], ["$"]),
        ("POST", "/api/groups", {"subject": "a\nb"}, ["subject"]),
        ("POST", "/api/groups", {"subject": "a" * 129}, ["subject"]),
        ("POST", "/api/groups", {"subject": "s", "description": "\x00"}, ["description"]),
        ("POST", "/api/groups", {"subject": "s", "description": "a" * 2049}, ["description"]),
        ("POST", "/api/groups", {"subject": "s", "joinApprovalMode": []}, ["joinApprovalMode"]),
        ("POST", f"/api/groups/{GROUP}", {}, ["$"]),
        ("POST", f"/api/groups/{GROUP}", {"picture": 1}, ["$"]),
        ("DELETE", f"/api/groups/{GROUP}/participants", {}, ["waIds"]),
        ("DELETE", f"/api/groups/{GROUP}/participants", {"waIds": []}, ["waIds"]),
        ("DELETE", f"/api/groups/{GROUP}/participants", {"waIds": ["1"] * 9}, ["waIds"]),
        ("DELETE", f"/api/groups/{GROUP}/participants", {"waIds": ["1", 2]}, ["waIds[1]"]),
        ("POST", f"/api/groups/{GROUP}/join-requests", {"joinRequestIds": "a"}, ["joinRequestIds"]),
        (
            "DELETE",
            f"/api/groups/{GROUP}/join-requests",
            {"joinRequestIds": ["a"] * 65},
            ["joinRequestIds"],
        ),
    ],
)
async def test_a_body_that_breaks_a_rule_is_refused_with_its_mistakes(
    service: Any, method: str, path: str, body: Any, paths: list[str]
) -> None:
    answer = await service.ask(method, path, body)

    assert (answer.status, answer.code) == (400, "malformed_body")
    assert answer.json["error"]["message"] == "Group request body or route is invalid."
    assert [each["path"] for each in answer.json["error"]["details"]] == paths
    assert service.graph.asked == []


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("DELETE", f"/{GROUP}/participants")])
async def test_a_body_that_is_no_json_is_refused(service: Any, method: str, path: str) -> None:
    answer = await service.ask(method, f"/api/groups{path}", b"{")

    assert (answer.status, answer.code) == (400, "malformed_json")
    assert service.graph.asked == []


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("?limit=", ["limit"]),
        ("?limit=" + "1" * 33, ["limit"]),
        ("?after=%0A&before=%20", ["after", "before"]),
        (f"/{GROUP}?fields=" + "a" * 4097, ["fields"]),
        (f"/{GROUP}?fields=subject%7Bid%7D", ["fields"]),
        (f"/{GROUP}?fields=participants.limit(1)", ["fields"]),
        (f"/{GROUP}?fields=subject%26access_token%3Dx", ["fields"]),
        (f"/{GROUP}/join-requests?after=", ["after"]),
    ],
)
async def test_a_query_that_breaks_a_rule_is_refused(
    service: Any, path: str, names: list[str]
) -> None:
    answer = await service.ask("GET", f"/api/groups{path}")

    assert (answer.status, answer.code) == (400, "malformed_query")
    assert answer.json["error"]["message"] == "Group query is invalid."
    assert [each["path"] for each in answer.json["error"]["details"]] == names
    assert service.graph.asked == []


OTHER_IDS = {
    "phone number": "15551230000",
    "our number": "15551234567",
    "our account": "123456789012345",
    "question mark": "a%3Fb",
    "hash": "a%23",
    "encoded twice": "a%252Fb",
    "too long": f"{GROUP}a" * 20,
    "medium or template": "1234567890123456",
    "encoded digits": "%31234567890123456",
    "arabic digits": "%D9%A1" * 16,
    "as many digits as can be": "1" * 256,
    "post": "1234567890_9876543210",
    "compound": "1234567890_Y2Fw",
    "ad account": "act_1234567890",
    "conversation": "t_1234567890",
    **{word: word for word in ("me", "app", "debug_token", "oauth", "search")},
    "encoded word": "%6d%65",
    "word in other case": "Me",
    "words in other case": "Debug_Token",
    "version": "v19.0",
    "username": "example.com",
    "semicolon": "Y2Fw%3B1",
    "ampersand": "Y2Fw%261",
    "two ids": "Y2Fw%2C1",
    "emoji": "%F0%9F%98%801",
    "space": "%20Y2Fw1",
}
OF_A_GROUP = [
    ("GET", "", None),
    ("POST", "", {"subject": "s"}),
    ("DELETE", "", None),
    ("GET", "/invite-link", None),
    ("POST", "/invite-link", None),
    ("DELETE", "/participants", {"waIds": ["1"]}),
    ("GET", "/join-requests", None),
    ("POST", "/join-requests", {"joinRequestIds": ["1"]}),
    ("DELETE", "/join-requests", {"joinRequestIds": ["1"]}),
]


async def test_an_id_that_cannot_be_a_groups_never_reaches_graph(
    service: Any, subtests: pytest.Subtests
) -> None:
    for (name, group), (method, rest, body) in product(OTHER_IDS.items(), OF_A_GROUP):
        with subtests.test(f"{method} {rest}: {name}"):
            answer = await service.ask(method, f"/api/groups/{group}{rest}", body)
            strange = await service.ask(method, f"/api/groups/{group}{rest}", body, token=None)

            assert (answer.status, answer.code) == (400, "malformed_body")
            assert [each["path"] for each in answer.json["error"]["details"]] == ["groupId"]
            assert (strange.status, strange.code) == (401, "unauthorized")
            assert service.graph.asked == []


@pytest.mark.parametrize(
    ("group", "encoded"),
    [
        ("Y2FwaV9ncm91cDoxNTU1MDAwMTExMToxMjAzNjMwNDY5NDIzMzgyMAZD", None),
        ("FAKEGROUPID0000000001", None),
        ("group-1", "group%2D1"),
        ("GroupWithoutDigits", None),
        ("Y2Fw-x_1=", "Y2Fw-x_1%3D"),
        ("1Y2Fw", "%31Y2Fw"),
    ],
)
async def test_the_id_of_a_group_reaches_graph_as_one_segment(
    service: Any, group: str, encoded: str | None
) -> None:
    answer = await service.ask("DELETE", f"/api/groups/{encoded or group}?force=true&fields=id")

    assert answer.status == 200
    assert [(asked.path, asked.query) for asked in service.graph.asked] == [(f"/v25.0/{group}", {})]


@pytest.mark.parametrize("group", ["%2F", "a%5Cb", "%20", "%00", "%ff", "%zz", ""])
async def test_an_invalid_group_id_is_no_route(service: Any, group: str) -> None:
    answer = await service.ask("GET", f"/api/groups/{group}")

    assert (answer.status, answer.code) == (404, "not_found")
    assert answer.json["error"]["message"] == "Route not found."
    assert service.graph.asked == []


async def test_a_failure_is_returned_counted_and_logged(service: Any) -> None:
    service.graph.status = 400
    service.graph.body = {"error": {"message": "secret", "code": 131041, "fbtrace_id": "A"}}

    answer = await service.ask("GET", f"/api/groups/{GROUP}")

    assert (answer.status, answer.code) == (502, "graph_request_failed")
    assert answer.json["error"]["metaCode"] == 131041
    assert b"secret" not in answer.body
    (line,) = service.log
    assert (line["event"], line["metaCode"]) == ("wats.graph.failure", 131041)
    outcomes = [each for each in service.sink.counters if each.name == "graph_operations_total"]
    assert [each.attributes["wats.graph.endpoint_family"] for each in outcomes] == ["groups"]
    assert "send_outcomes_total" not in {each.name for each in service.sink.counters}


@pytest.mark.parametrize(
    ("method", "outcome", "retryable"), [("GET", "not_sent", True), ("DELETE", "unknown", False)]
)
async def test_a_page_of_a_proxy_leaves_only_the_outcome_of_a_change_unknown(
    service: Any, method: str, outcome: str, retryable: bool
) -> None:
    service.graph.status = 502
    service.graph.body = "<html>"

    answer = await service.ask(method, f"/api/groups/{GROUP}")

    assert (answer.status, answer.code) == (502, "graph_request_failed")
    assert answer.json["error"]["outcome"] == outcome
    assert answer.json["error"]["retryable"] is retryable


@pytest.mark.parametrize("body", ["", "<html>", []])
async def test_a_response_that_is_not_an_object_is_an_empty_one(service: Any, body: Any) -> None:
    service.graph.body = body

    answer = await service.ask("DELETE", f"/api/groups/{GROUP}")

    assert (answer.status, answer.body) == (200, b"{}")


@pytest.mark.parametrize("has_groups", [False])
async def test_there_are_no_group_routes_unless_they_are_enabled(service: Any) -> None:
    answer = await service.ask("GET", "/api/groups")

    assert (answer.status, answer.code) == (404, "not_found")
    assert service.graph.asked == []


async def test_unauthenticated_requests_are_refused(service: Any) -> None:
    answer = await service.ask("POST", "/api/groups", json.dumps({}).encode(), token=None)

    assert (answer.status, answer.code) == (401, "unauthorized")
