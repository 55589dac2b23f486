import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import wats
from wats.config import TelemetryConfig, WebhookConfig
from wats.privacy import Secret
from wats.service import WatsApp, create_wats_service_app
from wats.telemetry import RejectionReason
from wats.testing import (
    BEARER_TOKEN,
    VERIFY_TOKEN,
    CapturingTelemetrySink,
    example_profile,
    example_secrets,
    sign,
)

SCRAPER_TOKEN = "a-scraper-token-for-tests"
HOOK = "/webhooks/whatsapp"
CHALLENGE = "hub.mode=subscribe&hub.challenge=1"
PROOF = f"&hub.verify_token={VERIFY_TOKEN}"
GOOD = {"authorization": f"Bearer {BEARER_TOKEN}"}
WRONG = {"authorization": "Bearer not-the-token"}
SCRAPER = {"authorization": f"Bearer {SCRAPER_TOKEN}"}


class Gone(OSError):
    """The exception that some servers raise when the client of a response has hung up."""


class Service:
    """A service that is called as a server calls it."""

    def __init__(self) -> None:
        self.sink = CapturingTelemetrySink()
        self.log: list[Mapping[str, object]] = []
        self.app: WatsApp = create_wats_service_app(
            profile=example_profile(
                telemetry=TelemetryConfig(families="operator"),
                webhook=WebhookConfig(path=HOOK, max_body_bytes=100),
            ),
            secrets=example_secrets(telemetry_tokens=(Secret(SCRAPER_TOKEN),)),
            telemetry_sink=self.sink,
            log=self.log.append,
        )
        self.sent: list[Mapping[str, Any]] = []

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        query: str = "",
    ) -> int:
        """Return the status of the response."""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        await self.app(scope(method, path, headers or {}, query), receive, self.send)
        status: int = self.sent[-2]["status"]
        return status

    async def send(self, message: Mapping[str, Any]) -> None:
        self.sent.append(message)

    def counted(self, family: str, key: str) -> list[tuple[object, float]]:
        """Return the calls of the sink for *family*: each value of the attribute and its count."""
        calls = [each for each in self.sink.counters if each.name == family]
        return [(each.attributes[key], each.value) for each in calls]

    @property
    def requests(self) -> list[tuple[object, float]]:
        return self.counted("http_requests_total", "http.status_code")

    @property
    def failures(self) -> list[tuple[object, float]]:
        return self.counted("wats_auth_failures_total", "wats.auth.surface")

    @property
    def rejections(self) -> list[tuple[object, float]]:
        return self.counted("wats_webhook_rejections_total", "wats.webhook.rejection_reason")


def scope(method: str, path: str, headers: Mapping[str, str], query: str = "") -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    await service.app.start()
    yield service
    await service.app.stop()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 401, id="no-token"),
        pytest.param(WRONG, 401, id="wrong-token"),
        pytest.param(SCRAPER, 403, id="token-for-telemetry"),
    ],
)
async def test_invalid_credentials_for_the_api_are_counted(
    service: Service, headers: Mapping[str, str], status: int
) -> None:
    assert await service.ask("GET", "/api/messages", headers) == status

    assert service.failures == [("api", 1)]


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
async def test_a_telemetry_token_on_an_api_route_has_an_insufficient_scope(
    service: Service, method: str
) -> None:
    assert await service.ask(method, "/api/messages", SCRAPER, body=b"{}") == 403

    start, body = service.sent
    assert json.loads(body["body"])["error"]["code"] == "insufficient_scope"
    assert (b"www-authenticate", b'Bearer error="insufficient_scope"') in start["headers"]
    assert await service.ask(method, "/api/nothing", SCRAPER, body=b"{}") == 404


@pytest.mark.parametrize(
    ("method", "path", "scopes"),
    [
        ("GET", "/api/messages", "messages:read"),
        ("POST", "/api/messages", "messages:write"),
        ("GET", "/api/updates", "updates:consume"),
    ],
)
async def test_the_scope_that_a_token_lacks_is_named(
    service: Service, method: str, path: str, scopes: str
) -> None:
    await service.ask(method, path, SCRAPER, body=b"{}")

    error = json.loads(service.sent[-1]["body"])["error"]
    assert error["message"] == f"The token lacks a scope: {scopes}."


@pytest.mark.parametrize("headers", [{}, WRONG], ids=["no-token", "wrong-token"])
@pytest.mark.parametrize("path", ["/metrics", "/status", "/debug/diagnostics"])
async def test_invalid_credentials_for_telemetry_are_counted(
    service: Service, path: str, headers: Mapping[str, str]
) -> None:
    assert await service.ask("GET", path, headers) == 404

    assert service.failures == [("telemetry", 1)]


@pytest.mark.parametrize("headers", [{}, WRONG, GOOD], ids=["no-token", "wrong-token", "token"])
async def test_a_path_that_does_not_exist_counts_no_authentication_failure(
    service: Service, headers: Mapping[str, str]
) -> None:
    assert await service.ask("GET", "/nothing-is-here", headers) == 404

    assert sum(count for _, count in service.failures) == 0


@pytest.mark.parametrize("headers", [GOOD, SCRAPER], ids=["service", "telemetry"])
async def test_a_good_token_is_no_failure(service: Service, headers: Mapping[str, str]) -> None:
    assert await service.ask("GET", "/metrics", headers) == 200
    assert await service.ask("POST", "/metrics", headers) == 405
    assert await service.ask("GET", "/openapi.json", WRONG) == 200

    assert service.failures == []


async def test_a_sink_receives_the_same_for_unknown_and_hidden_paths(
    service: Service,
) -> None:
    await service.ask("GET", "/nothing", WRONG)
    unknown = received(service.sink)
    await service.ask("GET", "/metrics", WRONG)

    assert received(service.sink) == sorted(unknown * 2)


def received(sink: CapturingTelemetrySink) -> list[tuple[str, list[str]]]:
    values = [(each.name, sorted(each.attributes)) for each in (*sink.counters, *sink.histograms)]
    return sorted([*values, *((span.name, sorted(span.attributes)) for span in sink.spans)])


@pytest.mark.parametrize(
    ("query", "reason", "failures"),
    [
        pytest.param("", "invalid_mode", [], id="no-challenge"),
        pytest.param(CHALLENGE, "invalid_verify_token", ["webhook_verify"], id="no-token"),
        pytest.param(
            CHALLENGE + PROOF + "x", "invalid_verify_token", ["webhook_verify"], id="wrong-token"
        ),
    ],
)
async def test_a_challenge_that_is_refused_is_counted_by_its_reason(
    service: Service, query: str, reason: str, failures: list[str]
) -> None:
    await service.ask("GET", HOOK, query=query)

    assert service.rejections == [(reason, 1)]
    assert service.failures == [(surface, 1) for surface in failures]


@pytest.mark.parametrize(
    ("signature", "body", "reason", "failures"),
    [
        pytest.param(None, b"{}", "missing_signature", 1, id="not-signed"),
        pytest.param("x", b"{}", "invalid_signature_format", 1, id="malformed-signature"),
        pytest.param(sign(b""), b"{}", "signature_mismatch", 1, id="wrong-signature"),
        pytest.param(sign(b"{"), b"{", "invalid_json", 0, id="no-json"),
        pytest.param(sign(b"[]"), b"[]", "invalid_envelope", 0, id="no-envelope"),
        pytest.param("x", b" " * 101, "payload_too_large", 0, id="too-large"),
    ],
)
async def test_a_webhook_that_is_refused_is_counted_by_its_reason(
    service: Service, signature: str | None, body: bytes, reason: str, failures: int
) -> None:
    headers = {} if signature is None else {"x-hub-signature-256": signature}

    await service.ask("POST", HOOK, headers, body)

    assert service.rejections == [(reason, 1)]
    assert service.failures == [("webhook_signature", 1)] * failures


async def test_an_error_other_than_a_refusal_of_a_webhook_is_not_counted_as_one(
    service: Service,
) -> None:
    body = b'{"object":"whatsapp_business_account","entry":[]}'
    assert await service.ask("POST", HOOK, {"x-hub-signature-256": sign(body)}, body) == 200
    assert await service.ask("GET", HOOK, query=CHALLENGE + PROOF) == 200
    assert await service.ask("PUT", HOOK) == 405
    large = b" " * (1024 * 1024 + 1)
    assert await service.ask("POST", "/api/messages", GOOD, large) == 413

    assert service.rejections == []
    assert service.failures == []


def test_every_reason_to_refuse_a_webhook_can_be_counted() -> None:
    sources = (Path(wats.__file__).parent).rglob("*.py")
    pattern = r'(?:WebhookRefused|_refused)\(\s*"([a-z_]+)"'
    codes = {code for path in sources for code in re.findall(pattern, path.read_text("utf-8"))}

    assert {*codes, "payload_too_large"} == {*RejectionReason} - {RejectionReason.UNKNOWN}


async def test_a_request_is_counted_before_its_response_is_sent(service: Service) -> None:
    seen = []

    async def send(message: Mapping[str, Any]) -> None:
        seen.append((message["type"], service.requests))

    await service.app(scope("GET", "/healthz", {}), never, send)

    assert seen == [
        ("http.response.start", [(200, 1)]),
        ("http.response.body", [(200, 1)]),
    ]


async def test_a_request_whose_response_cannot_be_sent_is_counted_once(service: Service) -> None:
    async def send(message: Mapping[str, Any]) -> None:
        raise Gone

    with pytest.raises(Gone):
        await service.app(scope("GET", "/healthz", {}), never, send)

    assert service.requests == [(200, 1)]


async def test_a_request_whose_client_hangs_up_during_it_is_counted_without_a_status(
    service: Service,
) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    await service.app(scope("POST", HOOK, {}), receive, service.send)

    assert service.sent == []
    assert service.requests == [(0, 1)]


async def test_a_request_that_is_cancelled_is_counted_without_a_status(service: Service) -> None:
    waiting = asyncio.create_task(service.app(scope("POST", HOOK, {}), never, service.send))
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert service.requests == [(0, 1)]


async def never() -> dict[str, Any]:
    """Wait for a message that does not arrive."""
    await asyncio.Event().wait()
    raise AssertionError


async def test_rejected_webhooks_are_logged_by_reason_once_an_interval(service: Service) -> None:
    wrong = {"x-hub-signature-256": sign(b"{}", "another-app-secret")}

    for _ in range(20):
        assert await service.ask("POST", HOOK, wrong, b"{}") == 401
    assert await service.ask("POST", HOOK, {}, b"{}") == 401

    lines = [{**line, "at": ""} for line in service.log]
    assert lines == [
        {"event": "wats.webhook.rejected", "reason": reason, "suppressed": 0, "at": ""}
        for reason in ("signature_mismatch", "missing_signature")
    ]
    assert len(service.rejections) == 21


async def test_a_request_to_another_route_is_no_rejected_webhook(service: Service) -> None:
    assert await service.ask("POST", "/api/messages", WRONG, b"{}") == 401

    assert service.log == []
