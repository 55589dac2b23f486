"""The bytes on the wire: the contract of callers and operators."""

import json
from typing import Any

import pytest

from tests.settings import HOOK
from wats.config import GroupsConfig
from wats.store.migrate import load_migrations
from wats.testing import BEARER_TOKEN, VERIFY_TOKEN, sign

JSON = "application/json; charset=utf-8"
PLAIN = "text/plain; charset=utf-8"
TOKEN = {"authorization": f"Bearer {BEARER_TOKEN}"}
CAP = 2048
TOO_DEEP = b"[" * 100_000
GOOD_PHONE = "15550001234"


def error(code: str, message: str, **more: Any) -> bytes:
    document = {"error": {"code": code, "message": message, **more}}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


NOT_FOUND = error("not_found", "Route not found.")
UNAUTHORIZED = error("unauthorized", "Missing or invalid bearer token.")
NOT_ALLOWED = error("method_not_allowed", "Method not allowed.")
HEALTHY = b'{"ok":true,"service":"wats"}'


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/healthz", 200, HEALTHY),
        ("GET", "/healthz?x=1", 200, HEALTHY),
        ("GET", "/readyz", 200, HEALTHY),
        ("HEAD", "/healthz", 200, b""),
        ("HEAD", "/readyz", 200, b""),
        ("GET", "/healthz/", 404, NOT_FOUND),
        ("GET", "//healthz", 404, NOT_FOUND),
        ("GET", "/HEALTHZ", 404, NOT_FOUND),
        ("GET", "/%68ealthz", 404, NOT_FOUND),
        ("GET", "/healthz%2f", 404, NOT_FOUND),
        ("GET", "/x/../healthz", 200, HEALTHY),
        ("GET", "/x/%2e%2E/healthz", 200, HEALTHY),
        ("GET", "/./healthz", 200, HEALTHY),
        ("GET", "/../../healthz", 200, HEALTHY),
        ("GET", "/healthz/.", 404, NOT_FOUND),
        ("GET", "/healthz/x/..", 404, NOT_FOUND),
        ("GET", "/...", 404, NOT_FOUND),
        ("GET", "/", 404, NOT_FOUND),
        ("OPTIONS", "/", 404, NOT_FOUND),
        ("PROPFIND", "/nowhere", 404, NOT_FOUND),
        ("GET", "/api", 404, NOT_FOUND),
        ("GET", "/api/", 404, NOT_FOUND),
        ("GET", "/api/messages/../nowhere", 404, NOT_FOUND),
        ("GET", HOOK + "/", 404, NOT_FOUND),
        ("GET", "/webhook", 404, NOT_FOUND),
        ("GET", "/api/groups", 404, NOT_FOUND),
        ("POST", "/api/groups", 404, NOT_FOUND),
        ("GET", "/api/conversations/1/window/", 404, NOT_FOUND),
        ("GET", "/api/messages", 401, UNAUTHORIZED),
        ("POST", "/api/messages", 401, UNAUTHORIZED),
        ("PUT", "/api/messages", 401, UNAUTHORIZED),
        ("GET", "/api/messages/", 401, UNAUTHORIZED),
        ("GET", "/api/x/../messages", 401, UNAUTHORIZED),
        ("GET", "/api/conversations/x/window", 401, UNAUTHORIZED),
        ("GET", "/status", 404, NOT_FOUND),
        ("GET", "/x/../status", 404, NOT_FOUND),
    ],
)
async def test_responses_without_a_token_match_the_contract(
    exchange, url, method, path, status, body
) -> None:
    answer = await exchange(url, method, path)

    assert (answer.status, answer.body) == (status, body)
    assert answer["content-type"] == JSON
    assert answer["cache-control"] == "no-store"
    assert answer["content-length"] == str(len(body) if method != "HEAD" else len(HEALTHY))
    assert answer["www-authenticate"] == ("Bearer" if status == 401 else None)
    assert "server" not in answer.names


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/healthz", "GET, HEAD"),
        ("OPTIONS", "/readyz", "GET, HEAD"),
        ("DELETE", "/openapi.json", "GET, HEAD"),
        ("POST", "/status", "GET, HEAD"),
        ("PUT", "/metrics", "GET, HEAD"),
        ("PROPFIND", "/debug/diagnostics", "GET, HEAD"),
        ("PUT", HOOK, "GET, HEAD, POST"),
        ("GET", "/api/messages/text", "POST"),
        ("HEAD", "/api/messages/text", "POST"),
        ("DELETE", "/api/messages", "GET, HEAD, POST"),
        ("OPTIONS", "/api/messages", "GET, HEAD, POST"),
        ("POST", "/api/messages/wamid.A", "GET, HEAD"),
        ("POST", "/api/conversations/1/window", "GET, HEAD"),
    ],
)
async def test_a_method_that_a_route_does_not_have(exchange, url, method, path, allow) -> None:
    answer = await exchange(url, method, path, headers=TOKEN)

    assert (answer.status, answer["allow"]) == (405, allow)
    assert answer.body == (b"" if method == "HEAD" else NOT_ALLOWED)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (f"Bearer {BEARER_TOKEN}", 200),
        (f"bearer {BEARER_TOKEN}", 200),
        (f"BEARER   {BEARER_TOKEN}", 200),
        (f"Bearer {BEARER_TOKEN} ", 200),
        (f"Bearer\t{BEARER_TOKEN}", 401),
        (f"Bearer {BEARER_TOKEN}x", 401),
        (f"Bearer {BEARER_TOKEN[:-1]}", 401),
        (f"Bearer{BEARER_TOKEN}", 401),
        (f"Basic {BEARER_TOKEN}", 401),
        (BEARER_TOKEN, 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Bearer {BEARER_TOKEN}, Bearer {BEARER_TOKEN}", 401),
        ("Bearer \xe9\xff", 401),
    ],
)
async def test_which_tokens_open_the_api(exchange, url, value, status) -> None:
    answer = await exchange(url, "GET", "/api/messages", headers={"authorization": value})

    assert answer.status == status


@pytest.mark.parametrize(
    ("query", "status", "body"),
    [
        (f"hub.mode=subscribe&hub.verify_token={VERIFY_TOKEN}&hub.challenge=1158", 200, b"1158"),
        (
            f"hub.challenge=%3Cb%3E%26+%C3%A9&hub.verify_token={VERIFY_TOKEN}&hub.mode=subscribe",
            200,
            "<b>& é".encode(),
        ),
        (
            f"hub.mode=subscribe&hub.mode=x&hub.verify_token={VERIFY_TOKEN}"
            "&hub.verify_token=x&hub.challenge=1&hub.challenge=2",
            200,
            b"1",
        ),
        (
            "",
            400,
            error("invalid_mode", "Webhook challenge mode must be 'subscribe'."),
        ),
        (
            f"hub.mode=Subscribe&hub.verify_token={VERIFY_TOKEN}&hub.challenge=1",
            400,
            error("invalid_mode", "Webhook challenge mode must be 'subscribe'."),
        ),
        (
            "hub.mode=subscribe&hub.challenge=1",
            401,
            error("invalid_verify_token", "Webhook verify token does not match configured token."),
        ),
        (
            "hub.mode=subscribe&hub.verify_token=x&hub.challenge=1",
            401,
            error("invalid_verify_token", "Webhook verify token does not match configured token."),
        ),
        (
            f"hub.mode=subscribe&hub.verify_token={VERIFY_TOKEN}",
            400,
            error("missing_challenge", "Webhook challenge must be a non-empty string."),
        ),
        (
            f"hub.mode=subscribe&hub.verify_token={VERIFY_TOKEN}&hub.challenge=",
            400,
            error("missing_challenge", "Webhook challenge must be a non-empty string."),
        ),
    ],
)
async def test_responses_to_the_challenge_match_the_contract(
    exchange, url, query, status, body
) -> None:
    answer = await exchange(url, "GET", f"{HOOK}?{query}")

    assert (answer.status, answer.body) == (status, body)
    assert answer["content-type"] == (PLAIN if status == 200 else JSON)


def webhook(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


MISMATCH = error("signature_mismatch", "X-Hub-Signature-256 does not match payload digest.")
FORMAT = error("invalid_signature_format", "X-Hub-Signature-256 must be 'sha256=<64 hex chars>'.")
NOT_JSON = error("invalid_json", "Request body is not valid JSON.")
NO_OBJECT = error("missing_object_field", "Webhook envelope is missing the `object` field.")
NO_ENTRIES = error("invalid_entry_array", "Webhook envelope `entry` must be an array.")
MINE = "whatsapp_business_account"


@pytest.mark.parametrize(
    ("body", "signature", "status", "expected"),
    [
        pytest.param(
            {"object": MINE},
            None,
            401,
            error("missing_signature", "Missing X-Hub-Signature-256 header."),
            id="no-signature",
        ),
        pytest.param({"object": MINE}, "", 400, FORMAT, id="empty-signature"),
        pytest.param({"object": MINE}, "sha1=" + "0" * 40, 400, FORMAT, id="sha1"),
        pytest.param({"object": MINE}, "sha256=" + "A" * 64, 400, FORMAT, id="upper-case"),
        pytest.param({"object": MINE}, "sha256=" + "a" * 63, 400, FORMAT, id="short"),
        pytest.param({"object": MINE}, "SHA256=" + "a" * 64, 400, FORMAT, id="upper-case-scheme"),
        pytest.param({"object": MINE}, "sha256=" + "0" * 64, 401, MISMATCH, id="mismatch"),
        pytest.param(b"{", "good", 400, NOT_JSON, id="broken-json"),
        pytest.param(b"", "good", 400, NOT_JSON, id="empty"),
        pytest.param(b"NaN", "good", 400, NOT_JSON, id="not-a-number"),
        pytest.param(
            [],
            "good",
            400,
            error("invalid_envelope", "Webhook envelope is not an object."),
            id="array",
        ),
        pytest.param(
            b"null",
            "good",
            400,
            error("invalid_envelope", "Webhook envelope is not an object."),
            id="null",
        ),
        pytest.param({}, "good", 400, NO_OBJECT, id="no-object"),
        pytest.param({"object": 5, "entry": []}, "good", 400, NO_OBJECT, id="object-is-a-number"),
        pytest.param({"object": MINE}, "good", 400, NO_ENTRIES, id="no-entries"),
        pytest.param(
            {"object": MINE, "entry": {}}, "good", 400, NO_ENTRIES, id="entry-is-an-object"
        ),
        pytest.param(
            {"object": MINE, "entry": []},
            "good",
            200,
            b'{"status":"ok","received":0,"dispatched":0,"skipped":0}',
            id="no-updates",
        ),
        pytest.param(
            {"object": MINE, "entry": [None, 7, {"id": "1"}]},
            "good",
            200,
            b'{"status":"ok","received":0,"dispatched":0,"skipped":3}',
            id="nothing-to-read",
        ),
    ],
)
async def test_responses_to_webhooks_match_the_contract(
    exchange, url, body, signature, status, expected
) -> None:
    raw = webhook(body)
    headers = {} if signature is None else {"x-hub-signature-256": signature}
    if signature == "good":
        headers = {"x-hub-signature-256": sign(raw)}

    answer = await exchange(url, "POST", HOOK, raw, headers)

    assert (answer.status, answer.body, answer["content-type"]) == (status, expected, JSON)


async def test_another_products_webhook_is_not_quoted(exchange, url) -> None:
    body = webhook({"object": "a-secret-object", "entry": []})

    answer = await exchange(url, "POST", HOOK, body, {"x-hub-signature-256": sign(body)})

    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "unsupported_object")
    assert b"a-secret-object" not in answer.body


async def test_a_webhook_larger_than_the_cap_is_refused_before_anything_else(exchange, url) -> None:
    body = b" " * (CAP + 1)
    too_large = error("payload_too_large", "Body exceeds maxBodyBytes.")

    declared = await exchange(url, "POST", HOOK, body)
    # The body is only announced: the server does not wait for a body that it will not read.
    announced = await exchange(url, "POST", HOOK, None, {"content-length": str(10**12)})
    chunks = b"".join(b"200\r\n" + b" " * 512 + b"\r\n" for _ in range(5)) + b"0\r\n\r\n"
    streamed = await exchange(url, "POST", HOOK, chunks, {"transfer-encoding": "chunked"})

    for answer in (declared, announced, streamed):
        assert (answer.status, answer.body) == (413, too_large)


async def test_a_webhook_as_large_as_the_cap_is_taken(exchange, url) -> None:
    body = webhook({"object": MINE, "entry": []})
    body += b" " * (CAP - len(body))

    answer = await exchange(url, "POST", HOOK, body, {"x-hub-signature-256": sign(body)})

    assert answer.status == 200


async def test_a_stream_without_a_byte_is_no_webhook(exchange, url) -> None:
    headers = {"transfer-encoding": "chunked", "x-hub-signature-256": sign(b"")}

    answer = await exchange(url, "POST", HOOK, b"0\r\n\r\n", headers)

    assert (answer.status, answer.body) == (400, error("missing_body", "POST body is required."))


STATUS = [
    *("service", "version", "uptimeSeconds", "graphApiVersion", "serviceMode", "routes"),
    *("featureFlags", "persistence", "inbox", "outbox"),
]
DIAGNOSTICS = [
    *("service", "version", "graphApiVersion", "serviceMode", "runtime", "routes"),
    *("featureFlags", "persistence", "metricFamilies", "recentErrors", "configShape"),
]
ROUTES = [
    *("/healthz", "/readyz", "/openapi.json", "/status", "/metrics", "/debug/diagnostics"),
    *("/webhook", "/api/messages/text", "/api/messages", "/api/messages/:id/read"),
    *("/api/messages/:id", "/api/conversations/:phone/window"),
    "/api/marketing_messages",
    *("/api/media", "/api/media/:mediaId", "/api/media/:mediaId/content", "/api/:resource"),
]
ADMIN_ROUTES = [
    "/api/admin",
]
GROUP_ROUTES = [
    *("/api/groups", "/api/groups/:groupId", "/api/groups/:groupId/invite-link"),
    *("/api/groups/:groupId/participants", "/api/groups/:groupId/join-requests"),
]
FAMILIES = [
    *("http_requests_total", "webhook_normalization_total", "graph_operations_total"),
    *("send_outcomes_total", "persistence_operations_total"),
    "http_request_duration_seconds",
]


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("has_store", [False, True])
async def test_the_snapshots_of_operators(open_gateway, groups, has_store) -> None:
    async with open_gateway(has_store=has_store, groups=GroupsConfig(enabled=groups)) as gateway:
        status = (await gateway.ask("GET", "/status")).json
        diagnostics = (await gateway.ask("GET", "/debug/diagnostics")).json

    assert list(status) == STATUS
    assert list(diagnostics) == DIAGNOSTICS
    for document in (status, diagnostics):
        assert (document["service"], document["graphApiVersion"]) == ("wats", "v25.0")
        assert document["routes"] == ROUTES + (GROUP_ROUTES if groups else []) + ADMIN_ROUTES
        assert list(document["featureFlags"].items()) == [
            ("groupRoutes", groups),
            ("persistence", has_store),
        ]
        parts = ["webhook", *["persistence"] * has_store, *["groups"] * groups]
        assert document["serviceMode"] == "+".join(parts)
    healthy = {
        "ok": True,
        "backend": "sqlite",
        "currentVersion": load_migrations("sqlite")[-1].version,
        "redactedLocation": "[REDACTED_SQLITE_DATABASE]",
    }
    absent = {
        "ok": False,
        "backend": "unknown",
        "currentVersion": 0,
        "redactedLocation": "[REDACTED]",
    }
    assert status["persistence"] == (healthy if has_store else None)
    states = ("pending", "leased", "retry", "dead", "orphaned", "oldestSeconds")
    assert status["inbox"] == (dict.fromkeys(states, 0) if has_store else None)
    counts = ("pending", "processing", "dead", "orphaned", "oldestSeconds")
    assert status["outbox"] == (dict.fromkeys(counts, 0) if has_store else None)
    assert diagnostics["persistence"] == (healthy if has_store else absent)
    assert isinstance(status["uptimeSeconds"], int)
    assert diagnostics["runtime"] == "python"
    known = [name for name in diagnostics["metricFamilies"] if name in FAMILIES]
    assert known == FAMILIES
    assert diagnostics["recentErrors"] == {}
    assert list(diagnostics["configShape"]) == ["graph", "auth", "service", "webhook"]
    assert diagnostics["configShape"]["webhook"] == {
        "path": "/webhook",
        "verifyToken": "[REDACTED]",
        "appSecret": "[REDACTED]",
        "maxBodyBytes": 3 * 2**20,
    }


async def test_the_exposition_declares_its_content_type(exchange, url) -> None:
    answer = await exchange(url, "GET", "/metrics", headers=TOKEN)

    assert answer.status == 200
    assert answer["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.body.endswith(b"\n")
    assert b"# HELP http_requests_total Inbound HTTP requests to the service.\n" in answer.body
