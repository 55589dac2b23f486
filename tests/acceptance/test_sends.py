"""Sending, against a Meta that fails in every way that Meta does."""

import asyncio
from collections import Counter

import pytest

BODY = {"to": "15550001234", "text": "Hello"}
TEXT = "/api/messages/text"


def wamid_of(answer) -> str:
    wamid: str = answer.json["messages"][0]["id"]
    return wamid


async def status_of(gateway, wamid: str) -> str:
    status: str = (await gateway.ask("GET", f"/api/messages/{wamid}")).json["status"]
    return status


@pytest.mark.parametrize("path", [TEXT, "/api/messages"], ids=["text", "graph"])
async def test_fifty_concurrent_requests_with_one_key_send_one_message(open_gateway, path) -> None:
    body = BODY
    if path != TEXT:
        text = {"type": "text", "text": {"body": "Hello"}}
        body = {"messaging_product": "whatsapp", "to": "15550001234", **text}
    async with open_gateway(simulated={"answer_delay_seconds": 0.05}) as gateway:
        key = {"idempotency-key": "one-key"}

        answers = await asyncio.gather(
            *(gateway.ask("POST", path, body, headers=key) for _ in range(50))
        )
        last = await gateway.ask("POST", path, body, headers=key)

        assert gateway.simulator.counts.sends == 1
        (first,) = (
            a for a in answers if a.status == 200 and "idempotency-replayed" not in a.headers
        )
        for answer in (*answers, last):
            if answer.status == 200:
                assert answer.body == first.body
                assert answer is first or answer.headers["idempotency-replayed"] == "true"
            else:
                assert (answer.status, answer.code) == (409, "idempotency_in_flight")
                assert int(answer.headers["retry-after"]) > 0
        assert last.status == 200
        assert Counter(m["direction"] for m in await gateway.messages()) == {"outbound": 1}


async def test_a_key_belongs_to_one_body(gateway) -> None:
    first = await gateway.send_text("15550001234", "Hello", key="k")
    other = await gateway.send_text("15550001234", "Goodbye", key="k")
    same = await gateway.ask(
        "POST",
        TEXT,
        b'{ "text": "Hello",\n"to": "15550001234" }',
        headers={"idempotency-key": "k"},
    )

    assert (other.status, other.code) == (409, "idempotency_conflict")
    assert (same.status, same.body) == (200, first.body)
    assert same.headers["idempotency-replayed"] == "true"
    assert gateway.simulator.counts.sends == 1


async def test_each_route_has_keys_of_its_own(gateway) -> None:
    graph = {
        "messaging_product": "whatsapp",
        "to": "15550001234",
        "type": "text",
        "text": {"body": "Hello"},
    }
    await gateway.send_text("15550001234", key="k")
    answer = await gateway.ask("POST", "/api/messages", graph, headers={"idempotency-key": "k"})

    assert answer.status == 200
    assert gateway.simulator.counts.sends == 2


async def test_without_a_key_every_request_is_a_message(gateway) -> None:
    for _ in range(2):
        assert (await gateway.send_text("15550001234")).status == 200

    assert gateway.simulator.counts.sends == 2


@pytest.mark.parametrize(
    ("recipient", "sends"),
    [
        pytest.param("15550000009", 1, id="accepted"),
        pytest.param("15550000010", 0, id="lost"),
        pytest.param("15550000007", 0, id="error-without-a-reason"),
        pytest.param("15550000011", 0, id="page-of-a-proxy"),
        pytest.param("15550000018", 0, id="gateway-timeout"),
    ],
)
async def test_a_request_whose_outcome_is_unknown_is_never_sent_again(
    gateway, recipient, sends
) -> None:
    first = await gateway.send_text(recipient, key="k")
    again = [await gateway.send_text(recipient, key="k") for _ in range(3)]

    assert (first.status, first.code) == (502, "graph_request_failed")
    assert first.json["error"]["retryable"] is False
    assert first.json["error"]["outcome"] == "unknown"
    assert {(a.status, a.code) for a in again} == {(409, "idempotency_outcome_unknown")}
    assert gateway.simulator.counts.requests == 1
    assert gateway.simulator.counts.sends == sends


@pytest.mark.parametrize("suffix", ["0003", "0004", "0005", "0006"])
async def test_a_refused_message_can_be_sent_again_with_the_same_key(gateway, suffix) -> None:
    refused = await gateway.send_text(f"1555000{suffix}", key="k")
    again = await gateway.send_text(f"1555000{suffix}", key="k")
    other = await gateway.send_text("15550001234", key="k")

    assert refused.status == again.status
    assert refused.code == again.code == "graph_request_failed"
    assert refused.json["error"]["outcome"] == "not_sent"
    # Nothing was sent, so the key does not belong to any body yet.
    assert other.status == 200
    assert gateway.simulator.counts.requests == 3
    assert gateway.simulator.counts.sends == 1


async def test_a_response_that_cannot_be_parsed_is_not_a_failure(gateway) -> None:
    answer = await gateway.send_text("15550000012", key="k")
    again = await gateway.send_text("15550000012", key="k")

    assert (answer.status, answer.body) == (200, b"{}")
    assert (again.status, again.body) == (200, b"{}")
    assert gateway.simulator.counts.sends == 1


async def test_a_key_without_a_store_is_a_promise_that_is_not_given(open_gateway) -> None:
    async with open_gateway(has_store=False) as gateway:
        answer = await gateway.send_text("15550001234", key="k")

        assert (answer.status, answer.code) == (501, "persistence_not_configured")
        assert gateway.simulator.counts.requests == 0


@pytest.mark.parametrize(
    ("recipient", "final"),
    [
        pytest.param("15550001234", "read", id="in-order"),
        pytest.param("15550000001", "failed", id="failed"),
        pytest.param("15550000015", "read", id="without-delivered"),
        pytest.param("15550000016", "read", id="delivered-before-sent"),
        pytest.param("15550000017", "read", id="sent-before-the-answer"),
    ],
)
async def test_statuses_move_a_message_on_by_rank(gateway, recipient, final) -> None:
    wamid = wamid_of(await gateway.send_text(recipient))

    await gateway.simulator.settle()

    assert await status_of(gateway, wamid) == final
    (listed,) = await gateway.messages()
    assert (listed["waMessageId"], listed["status"]) == (wamid, final)


async def test_no_status_moves_a_message_back(open_gateway) -> None:
    async with open_gateway(simulated={"status_delay_seconds": 0}) as gateway:
        gateway.simulator.set_webhook(None)
        wamid = wamid_of(await gateway.send_text("15550001234"))
        seen = []
        for number, status in enumerate(["failed", "delivered", "sent", "read", "failed", "sent"]):
            await gateway.webhook(
                {
                    "object": "whatsapp_business_account",
                    "entry": [
                        {
                            "id": "123456789012345",
                            "time": 1_790_000_000,
                            "changes": [
                                {
                                    "field": "messages",
                                    "value": {
                                        "messaging_product": "whatsapp",
                                        "metadata": {"phone_number_id": "15551234567"},
                                        "statuses": [
                                            {
                                                "id": wamid,
                                                "status": status,
                                                "timestamp": str(1_790_000_000 + number),
                                                "recipient_id": "15550001234",
                                            }
                                        ],
                                    },
                                }
                            ],
                        }
                    ],
                }
            )
            seen.append(await status_of(gateway, wamid))

        assert seen == ["failed", "delivered", "delivered", "read", "read", "read"]


@pytest.mark.parametrize(
    ("recipient", "status", "retry_after", "expected"),
    [
        pytest.param(
            "15550000003",
            503,
            "7",
            {"metaCode": 130429, "retryable": True, "category": "throttling"},
            id="throughput",
        ),
        pytest.param(
            "15550000004",
            503,
            None,
            {"metaCode": 131056, "retryable": True, "category": "throttling"},
            id="one-recipient-too-often",
        ),
        pytest.param(
            "15550000005",
            502,
            None,
            {"metaCode": 190, "metaSubcode": 463, "retryable": False, "category": "authorization"},
            id="expired-token",
        ),
        pytest.param(
            "15550000006",
            502,
            None,
            {"metaCode": 100, "retryable": False, "category": "send_message"},
            id="invalid-parameter",
        ),
        pytest.param(
            "15550000007",
            502,
            None,
            {"metaCode": 1, "outcome": "unknown", "retryable": False, "category": "platform"},
            id="meta-failed",
        ),
        pytest.param(
            "15550000011",
            502,
            None,
            {"outcome": "unknown", "retryable": False},
            id="page-of-a-proxy",
        ),
        pytest.param(
            "15550000013",
            503,
            "3",
            {"metaCode": 80008, "metaType": "OAuthException", "retryable": True},
            id="throttled-with-an-unknown-code",
        ),
        pytest.param("15550000018", 502, None, {"retryable": False}, id="gateway-timeout"),
        pytest.param(
            "19990131047",
            502,
            None,
            {"metaCode": 131047, "retryable": False},
            id="window-closed",
        ),
    ],
)
async def test_a_refusal_of_metas_is_reported_by_numbers_and_names_only(
    gateway, capsys, recipient, status, retry_after, expected
) -> None:
    answer = await gateway.send_text(f"+{recipient}")

    error = answer.json["error"]
    assert answer.status == status
    assert answer.headers.get("retry-after") == retry_after
    assert (error["code"], error["message"]) == ("graph_request_failed", "Graph request failed.")
    assert expected.items() <= error.items()
    assert list(error)[:2] == ["code", "message"]
    assert list(error)[-3:] == ["retryable", "category", "advice"]
    assert isinstance(error["category"], str)
    # The simulator's texts quote the recipient, as Meta's may.
    shown = [
        (await gateway.ask("GET", path)).body.decode()
        for path in ("/metrics", "/status", "/debug/diagnostics")
    ]
    outputs = [answer.body.decode(), repr(answer.headers), repr(gateway.log), *capsys.readouterr()]
    assert not [text for text in [*shown, *outputs] if recipient in text or "Made up" in text]


async def test_a_refused_connection_is_a_retryable_failure(open_gateway) -> None:
    async with open_gateway() as gateway:
        await gateway.simulator.stop()

        first = await gateway.send_text("15550001234", key="k")
        again = await gateway.send_text("15550001234", key="k")

        for answer in (first, again):
            assert (answer.status, answer.code) == (502, "graph_request_failed")
            assert answer.json["error"]["retryable"] is True


async def test_every_send_is_counted_by_its_outcome(gateway) -> None:
    for recipient in ("15550001234", "15550000006", "15550000009"):
        await gateway.send_text(recipient)

    sends = await gateway.samples("send_outcomes_total{")
    assert sends['send_outcomes_total{endpoint_family="messages",outcome="success"}'] == 1
    assert sends['send_outcomes_total{endpoint_family="messages",outcome="error"}'] == 2
    graph = await gateway.samples("graph_operations_total{")
    by_class = Counter()
    for series, value in graph.items():
        if 'endpoint_family="messages"' in series and value:
            by_class[series.partition('status_class="')[2].rstrip('"}')] += value
    assert by_class == {"2xx": 1, "4xx": 1, "unknown": 1}


async def test_a_replay_is_no_send(gateway) -> None:
    for _ in range(3):
        await gateway.send_text("15550001234", key="k")

    sends = await gateway.samples("send_outcomes_total{")
    assert sum(sends.values()) == 1
