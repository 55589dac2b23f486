import json
from typing import Any

from pywa.errors import RateLimitHit, ReEngagementMessage, WhatsAppError

from tests.settings import WABA_ID
from wats.graph.endpoints import ENDPOINTS, Service
from wats.testing import example_secrets
from wats.web.api.graph import MAX_DESCRIPTION_BYTES, REFUSED

NUMBER = "15551234567"
BASE = "/api/graph/v25.0"
TOKEN = example_secrets().access_token.reveal()
TEXT = {"messaging_product": "whatsapp", "to": "15550001111", "type": "text", "text": {"body": "a"}}
VARIANTS_OF_METHOD = ("%20method", "method[]", "method%5B0%5D", "method%00", "method.", "")
"""Names that a server in PHP reads as `method`."""
FILE = {
    "messaging_product": "whatsapp",
    "url": "https://lookaside.fbsbx.com/x",
    "mime_type": "image/png",
    "id": "777",
}


async def test_a_message_is_sent_once_for_its_idempotency_key_as_on_our_own_route(
    service: Any,
) -> None:
    first = await service.ask("POST", f"{BASE}/{NUMBER}/messages", TEXT, key="k")
    again = await service.ask("POST", f"{BASE}/{NUMBER}/messages", TEXT, key="k")
    on_the_other_route = await service.ask("POST", "/api/messages", TEXT, key="k")

    assert first.json == again.json == on_the_other_route.json == {"messages": [{"id": "wamid.A"}]}
    assert again.headers["idempotency-replayed"] == "true"
    [asked] = service.graph.asked
    assert (asked.path, json.loads(asked.body)) == (f"/v25.0/{NUMBER}/messages", TEXT)


async def test_a_message_that_exceeds_the_rate_limit_is_refused_as_by_meta(service: Any) -> None:
    service.graph.status, service.graph.headers = 429, {"retry-after": "7"}
    service.graph.body = {"error": {"code": 130429, "type": "OAuthException", "message": "no"}}
    await service.ask("POST", f"{BASE}/{NUMBER}/messages", TEXT)

    answer = await service.ask("POST", f"{BASE}/{NUMBER}/messages", TEXT)

    error = answer.json["error"]
    assert (answer.status, error["wats"]["code"]) == (429, "rate_limited")
    assert (error["wats"]["retryable"], error["wats"]["category"]) == (True, "throttling")
    assert isinstance(WhatsAppError.from_dict(error), RateLimitHit)
    assert len(service.graph.asked) == 1


async def test_a_call_is_passed_on_with_the_configured_version(service: Any) -> None:
    service.graph.body = {"data": []}

    for version in ("/v25.0", "/v23.0", "/v9", ""):
        path = f"/api/graph{version}/{NUMBER}/whatsapp_business_profile"
        answer = await service.ask("GET", f"{path}?fields=about,email&limit=2")
        assert (answer.status, answer.json) == (200, {"data": []})
    newer = await service.ask("GET", f"/api/graph/v26.0/{NUMBER}/whatsapp_business_profile")

    assert (newer.status, newer.json["error"]["wats"]["details"][0]["path"]) == (400, "version")
    assert len(service.graph.asked) == 4
    assert {(each.path, tuple(each.query.items())) for each in service.graph.asked} == {
        (
            f"/v25.0/{NUMBER}/whatsapp_business_profile",
            (("fields", "about,email"), ("limit", "2")),
        )
    }


async def test_every_listed_call_reaches_graph_by_its_path_and_method(service: Any) -> None:
    examples = {
        "{number}": NUMBER,
        "{account}": WABA_ID,
        "{id}": "777",
        "{code}": "A1B2",
        "{group}": "Y2FwaV9ncm91cDox",
        "{upload}": "upload:MTphdA==",
    }
    service.graph.body = {"success": True}
    for row in ENDPOINTS:
        if row.service is Service.PASS:
            path = "/".join(examples.get(each, each) for each in row.path.split("/"))
            for method in row.methods:
                answer = await service.ask(method.value, f"{BASE}/{path}")
                asked = service.graph.asked[-1]
                assert (answer.status, answer.json) == (200, {"success": True})
                assert (asked.method, asked.path) == (method.value, f"/v25.0/{path}")


async def test_a_body_of_any_type_arrives_unchanged(service: Any) -> None:
    service.graph.body = {"success": True}

    for content_type, body in [
        ("application/json", b'{"about": "x"}'),
        ("multipart/form-data; boundary=b", b"--b\r\n\xff\0--b--"),
        ("application/x-www-form-urlencoded", b"about=x"),
        ("application/json", b"x" * 300_000),
    ]:
        answer = await service.ask(
            "POST",
            f"{BASE}/{NUMBER}/whatsapp_business_profile",
            body,
            **{"content-type": content_type},
        )
        assert answer.json == {"success": True}
        assert service.graph.asked[-1].body == body
        assert service.graph.received_headers["content-type"] == content_type
    without = await service.ask("POST", f"{BASE}/{NUMBER}/register")

    assert without.status == 200
    assert service.graph.asked[-1].body == b""


async def test_only_our_own_credentials_reach_graph(service: Any) -> None:
    service.graph.body = {"data": []}

    await service.ask(
        "GET",
        f"{BASE}/{NUMBER}?access_token=theirs&Appsecret_Proof=theirs&fields=id",
        **{"cookie": "a=b", "x-http-method-override": "DELETE", "x-forwarded-for": "10.0.0.1"},
    )

    [asked], sent = service.graph.asked, service.graph.received_headers
    assert asked.query == {"fields": "id"}
    assert sent["authorization"] == f"Bearer {TOKEN}"
    assert {"cookie", "x-http-method-override", "x-forwarded-for"}.isdisjoint(sent)


async def test_a_link_to_the_next_page_is_ours_and_has_no_token(service: Any) -> None:
    root = "https://graph.facebook.com/v25.0/1/flows"
    service.graph.body = {"paging": {"next": f"{root}?access_token={TOKEN}&after=A"}}

    answer = await service.ask("GET", f"{BASE}/{NUMBER}/settings", host="wats.example:8787")

    assert TOKEN.encode() not in answer.body
    assert answer.json["paging"]["next"] == (
        "http://wats.example:8787/api/graph/v25.0/1/flows?access_token=&after=A"
    )


async def test_the_url_of_a_file_is_ours(service: Any) -> None:
    for body, expected in [
        (FILE, "http://wats.example/api/media/777/content"),
        ({"id": "777", "url": "https://x.example"}, "https://x.example"),
        ({**FILE, "more": "x" * MAX_DESCRIPTION_BYTES}, FILE["url"]),
    ]:
        service.graph.body = body
        answer = await service.ask("GET", f"{BASE}/777", host="wats.example")
        assert answer.json == {**body, "url": expected}


async def test_a_file_is_deleted_as_a_file_if_its_owner_is_named(service: Any) -> None:
    path = f"{BASE}/777?phone_number_id="
    service.graph.body = FILE
    deleted = await service.ask("DELETE", path + NUMBER)
    other = await service.ask("DELETE", path + "1")
    service.graph.body = {"name": "a template"}
    missing = await service.ask("DELETE", path + NUMBER)

    assert [each.status for each in (deleted, other, missing)] == [200, 404, 404]
    assert [each.method for each in service.graph.asked] == ["GET", "DELETE", "GET"]


async def test_a_call_that_is_not_listed_is_refused_and_not_sent(service: Any) -> None:
    for method, path, status in [
        ("GET", "me", 400),
        ("GET", "debug_token", 400),
        ("POST", "15550009999/messages", 404),
        ("POST", "777/subscribed_apps", 404),
        ("POST", NUMBER, 405),
        ("DELETE", NUMBER, 405),
        ("GET", "%2e%2e%2fstatus", 400),
        ("GET", "777%2Fassets", 400),
        *[("GET", f"{NUMBER}?{name}=x", 400) for name in sorted(REFUSED)],
        ("GET", f"{NUMBER}?METHOD=delete", 400),
        *[("GET", f"{NUMBER}?{name}=delete", 400) for name in VARIANTS_OF_METHOD],
        ("POST", f"0{NUMBER}", 404),
    ]:
        answer = await service.ask(method, f"{BASE}/{path}")
        assert answer.status == status, (method, path)
        assert answer.json["error"]["code"] == ("not_found" if status == 404 else 100)
    assert service.graph.asked == []


async def test_a_write_without_a_promise_refuses_a_key(service: Any) -> None:
    path = f"{BASE}/{NUMBER}/whatsapp_business_profile"
    answer = await service.ask("POST", path, {}, key="k")

    assert (answer.status, answer.json["error"]["wats"]["code"]) == (400, "invalid_idempotency_key")
    assert service.graph.asked == []


async def test_a_body_needs_a_length_and_has_a_limit(service: Any) -> None:
    path = f"{BASE}/{NUMBER}/whatsapp_business_profile"
    chunked = await service.ask("POST", path, None, **{"transfer-encoding": "chunked"})
    large = await service.ask("POST", path, None, **{"content-length": str(10**9)})
    odd = await service.ask("POST", path, None, **{"content-length": "3", "content-type": "a\x80"})
    position = await service.ask("POST", f"{BASE}/upload:abc", None, file_offset="x")

    assert [each.status for each in (chunked, large, odd, position)] == [411, 413, 415, 400]
    assert service.graph.asked == []


async def test_an_error_has_graphs_form_and_ours_without_metas_texts(service: Any) -> None:
    service.graph.status = 400
    service.graph.body = {
        "error": {
            "message": "(#131047) to 15550001111",
            "type": "OAuthException",
            "code": 131047,
            "fbtrace_id": "Abc",
            "error_data": {"details": "15550001111"},
        }
    }
    for method, path, body in [
        ("POST", f"{NUMBER}/messages", TEXT),
        ("POST", f"{NUMBER}/whatsapp_business_profile", {}),
        ("GET", NUMBER, None),
    ]:
        answer = await service.ask(method, f"{BASE}/{path}", body)
        error = answer.json["error"]

        assert answer.status == 400
        assert isinstance(WhatsAppError.from_dict(error), ReEngagementMessage)
        assert (error["type"], error["fbtrace_id"]) == ("OAuthException", "Abc")
        assert error["wats"]["code"] == "graph_request_failed"
        assert (error["wats"]["retryable"], error["wats"]["category"]) == (False, "send_message")
        assert b"15550001111" not in answer.body


async def test_an_error_of_ours_has_a_code_that_clients_of_graph_know(service: Any) -> None:
    for token, status, code in [(None, 401, 190), ("wrong", 401, 190)]:
        answer = await service.ask("GET", f"{BASE}/{NUMBER}", token=token)
        assert (answer.status, answer.json["error"]["code"]) == (status, code)
    invalid = await service.ask("POST", f"{BASE}/{NUMBER}/messages", {**TEXT, "to": "x"})

    assert (invalid.status, invalid.json["error"]["code"]) == (400, 100)
    assert "to: " in invalid.json["error"]["error_data"]["details"]


async def test_metas_status_is_kept_if_it_is_one_of_the_documented_ones(service: Any) -> None:
    service.graph.body = {"error": {"code": 999}}
    for status, shown in [(401, 401), (429, 429), (418, 400), (500, 500), (504, 502), (302, 502)]:
        service.graph.status = status
        answer = await service.ask("GET", f"{BASE}/{NUMBER}")
        assert answer.status == shown


async def test_a_page_of_a_proxy_with_200_is_not_shown(service: Any) -> None:
    service.graph.body = "<html>Signed in as Anna</html>"

    answer = await service.ask("GET", f"{BASE}/{NUMBER}")

    assert (answer.status, answer.json) == (200, {})


async def test_calls_are_counted_under_one_route_and_logged_without_ids(service: Any) -> None:
    service.graph.body = {}
    await service.ask("GET", f"{BASE}/777000111222333")
    service.graph.status, service.graph.body = 400, {"error": {"code": 100}}
    await service.ask("GET", f"{BASE}/777000111222333/assets")

    values = {
        (each.name, attribute)
        for each in service.sink.counters
        for attribute in each.attributes.values()
    }
    assert ("http_requests_total", "/api/:resource") in values
    assert {each for name, each in values if name == "graph_operations_total"} >= {
        *("flows", "unknown", "success", "error")
    }
    assert "777000111222333" not in json.dumps([*service.log, *map(repr, service.sink.spans)])
