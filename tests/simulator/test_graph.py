import asyncio
import base64
import json
import time
from typing import Any

import aiohttp
import pytest

from wats.errors import GraphOutcomeUnknown, GraphRefused, GraphUnreachable
from wats.graph.client import GraphClient
from wats.graph.responses import GraphResponse
from wats.privacy import Secret
from wats.simulator import SimulatedNumber
from wats.simulator.recipients import BY_SUFFIX, REFUSED_PREFIX
from wats.telemetry.contract.values import EndpointFamily, ErrorCategory, Outcome

NUMBER = "200000000000002"
MARKETING = {
    "messaging_product": "whatsapp",
    "to": "+15550002222",
    "type": "template",
    "template": {"name": "sale", "language": {"code": "en"}},
}


class Ignored:
    def operation(
        self, family: EndpointFamily, status: int, outcome: Outcome, seconds: float, /
    ) -> None:
        pass

    def error(self, category: ErrorCategory, /) -> None:
        pass


async def send_with_client(url: str, to: str, *, read_seconds: float = 60.0) -> GraphResponse:
    client = GraphClient(
        base_url=url,
        version="v25.0",
        access_token=Secret("token"),
        telemetry=Ignored(),
        connect_seconds=60.0,
        read_seconds=read_seconds,
        total_seconds=90.0,
    )
    await client.start()
    payload = (
        b'{"messaging_product":"whatsapp","type":"text","text":{"body":"Hi"},"to":"%s"}'
        % to.encode()
    )
    try:
        return await client.call(
            EndpointFamily.MESSAGES, "POST", [NUMBER, "messages"], payload=payload
        )
    finally:
        await client.close()


async def test_a_message_is_accepted_and_its_statuses_follow(meta: Any, receiver: Any) -> None:
    began = int(time.time())

    status, answer = await meta.graph.send("+15550002222", biz_opaque_callback_data="order=1")
    await meta.simulator.settle()

    wamid = answer["messages"][0]["id"]
    assert status == 200
    assert answer == {
        "messaging_product": "whatsapp",
        "contacts": [{"input": "+15550002222", "wa_id": "15550002222"}],
        "messages": [{"id": wamid}],
    }
    assert b"15550002222" in base64.b64decode(wamid.removeprefix("wamid."))
    assert receiver.statuses_of(wamid) == ["sent", "delivered", "read"]
    items = receiver.items("statuses")
    times = [int(item["timestamp"]) for item in items]
    assert times == sorted(set(times))
    assert times[0] >= began
    assert {item["recipient_id"] for item in items} == {"15550002222"}
    assert {item["biz_opaque_callback_data"] for item in items} == {"order=1"}
    assert [item.get("pricing", {}).get("billable") for item in items] == [False, False, None]


async def test_accepted_messages_can_be_queried(meta: Any) -> None:
    await meta.graph.send("15550002222")

    [message] = meta.simulator.accepted
    assert message.recipient == "15550002222"
    assert message.payload["text"] == {"body": "Hello"}
    assert "Hello" not in repr(message)
    assert (meta.simulator.counts.requests, meta.simulator.counts.sends) == (1, 1)


async def test_a_template_is_billed(meta: Any, receiver: Any) -> None:
    template = {"name": "x", "language": {"code": "en"}}
    await meta.graph.send("15550002222", type="template", template=template)
    await meta.simulator.settle()

    assert receiver.items("statuses")[0]["pricing"]["billable"] is True


async def test_a_user_id_can_be_written_to(meta: Any, receiver: Any) -> None:
    status, answer = await meta.graph.send("", recipient="US.123")
    await meta.simulator.settle()

    assert status == 200
    assert answer["contacts"] == [{"input": "US.123", "user_id": "US.123"}]
    assert {item["recipient_user_id"] for item in receiver.items("statuses")} == {"US.123"}


async def test_a_message_can_be_marked_as_read(meta: Any) -> None:
    mark = {"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.X"}

    answer = await meta.graph.call("POST", f"/v25.0/{NUMBER}/messages", mark)
    fault = await meta.graph.call("POST", f"/v25.0/{NUMBER}/messages", {**mark, "message_id": 1})

    assert answer == (200, {"success": True})
    assert fault[0] == 400
    assert (meta.simulator.counts.read_marks, meta.simulator.counts.sends) == (1, 0)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"messaging_product": "x"}, 100, id="product"),
        pytest.param({"to": 15550002222}, 100, id="to-number"),
        pytest.param({"to": ""}, 100, id="to-empty"),
        pytest.param({"to": "Jane"}, 131009, id="to-name"),
        pytest.param({"to": "G", "recipient_type": "group"}, 131041, id="group"),
        pytest.param({"type": None}, 100, id="no-type"),
        pytest.param({"type": "song"}, 131009, id="type"),
        pytest.param({"type": "image"}, 131008, id="content"),
        pytest.param({"type": "image", "image": {"a": 1}}, 131008, id="no-file"),
        pytest.param({"type": "location", "location": {"latitude": 1}}, 131008, id="half-a-place"),
        pytest.param({"type": "contacts", "contacts": [{"name": {}}]}, 131008, id="no-name"),
        pytest.param({"type": "contacts", "contacts": [1]}, 131008, id="not-a-card"),
        pytest.param({"type": "template", "template": {"name": "x"}}, 131008, id="no-language"),
        pytest.param({"type": "interactive", "interactive": [1]}, 131008, id="array"),
        pytest.param(
            {"type": "interactive", "interactive": {"type": "x", "action": {}}},
            131009,
            id="unknown",
        ),
        pytest.param(
            {"type": "interactive", "interactive": {"type": ["x"], "action": {}}},
            131009,
            id="not-a-type",
        ),
        pytest.param(
            {"type": "interactive", "interactive": {"type": "button", "action": {"buttons": [1]}}},
            131008,
            id="no-body",
        ),
        pytest.param({"text": "Hi"}, 131008, id="text-as-text"),
        pytest.param({"text": []}, 131008, id="text-as-list"),
        pytest.param({"text": ["x"]}, 100, id="text-as-a-full-list"),
        pytest.param({"text": {"body": " "}}, 100, id="blank"),
        pytest.param({"text": {"body": "x" * 4097}}, 100, id="long"),
    ],
)
async def test_a_faulty_message_is_refused(meta: Any, changes: dict[str, Any], code: int) -> None:
    message = {
        "messaging_product": "whatsapp",
        "to": "15550002222",
        "type": "text",
        "text": {"body": "Hi"},
        **changes,
    }

    status, answer = await meta.graph.call("POST", f"/v25.0/{NUMBER}/messages", message)

    assert (status, answer["error"]["code"]) == (400, code)
    assert set(answer["error"]) >= {"message", "type", "code", "fbtrace_id"}
    assert (meta.simulator.counts.sends, meta.simulator.counts.refusals) == (0, 1)


async def test_the_content_of_a_message_may_be_a_text_with_its_json(meta: Any) -> None:
    message = {"messaging_product": "whatsapp", "to": "15550002222", "type": "text"}
    content = {"body": "Hi"}

    status, _ = await meta.graph.call(
        "POST", f"/v25.0/{NUMBER}/messages", {**message, "text": json.dumps(content)}
    )

    assert status == 200
    assert meta.simulator.accepted[-1].payload == {**message, "text": content}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 10_000])
async def test_a_body_that_is_no_object_is_refused(meta: Any, body: bytes) -> None:
    url = f"{meta.graph.url}/v25.0/{NUMBER}/messages"
    headers = {"authorization": "Bearer x"}

    async with meta.graph.session.post(url, data=body, headers=headers) as response:
        answer = await response.json()

    assert (response.status, answer["error"]["code"]) == (400, 100)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v25.0/1/messages", 100),
        ("/v25.0/1/groups", 100),
        ("/25/1/messages", 2500),
        ("/", 2500),
        ("/v25.0/a/b/c", 2500),
    ],
)
async def test_an_unknown_path_is_refused_as_graph_does(meta: Any, path: str, code: int) -> None:
    status, answer = await meta.graph.call("POST", path, {})

    assert (status, answer["error"]["code"]) == (400, code)


@pytest.mark.parametrize(
    ("wanted", "header", "expected"),
    [
        (None, "Bearer x", 200),
        (None, "bearer x", 200),
        (None, "Bearer ", 401),
        (None, "Basic x", 401),
        (None, "", 401),
        ("right", "Bearer right", 200),
        ("right", "Bearer wrong", 401),
    ],
)
async def test_the_access_token_is_checked(
    started: Any, wanted: str | None, header: str, expected: int
) -> None:
    token = Secret(wanted) if wanted is not None else None

    async with started(access_token=token) as meta:
        status, answer = await meta.graph.call(
            "GET", f"/v25.0/{NUMBER}/groups", headers={"authorization": header}
        )

    assert status == expected
    assert status == 200 or answer["error"]["code"] == 190


@pytest.mark.parametrize(
    ("suffix", "status", "code", "retry_after"),
    [
        ("0003", 429, 130429, "7"),
        ("0004", 400, 131056, None),
        ("0005", 401, 190, None),
        ("0006", 400, 100, None),
        ("0013", 429, 80008, "3"),
    ],
)
async def test_a_refusal_recipient_gets_its_refusal(
    meta: Any, suffix: str, status: int, code: int | None, retry_after: str | None
) -> None:
    with pytest.raises(GraphRefused) as caught:
        await send_with_client(meta.simulator.url, f"1555000{suffix}")

    assert caught.value.upstream_status == status
    assert caught.value.diagnostics.meta_code == code
    assert caught.value.retry_after == retry_after
    assert caught.value.throttled is (status == 429 or code == 131056)
    assert (meta.simulator.counts.sends, meta.simulator.counts.refusals) == (0, 1)


@pytest.mark.parametrize(("suffix", "code"), [("0007", 1), ("0011", None), ("0018", None)])
async def test_an_unknown_outcome_recipient_gets_an_unknown_outcome(
    meta: Any, suffix: str, code: int | None
) -> None:
    with pytest.raises(GraphOutcomeUnknown) as caught:
        await send_with_client(meta.simulator.url, f"1555000{suffix}")

    assert caught.value.diagnostics.meta_code == code
    assert (meta.simulator.counts.sends, meta.simulator.counts.refusals) == (0, 1)


async def test_any_error_of_the_table_can_be_had(meta: Any) -> None:
    with pytest.raises(GraphRefused) as caught:
        await send_with_client(meta.simulator.url, f"{REFUSED_PREFIX}0131031")

    assert caught.value.diagnostics.name == "AccountLockedError"
    assert caught.value.diagnostics.fbtrace_id is not None


async def test_a_refusal_quotes_the_recipient_so_that_leaks_are_found(meta: Any) -> None:
    _, answer = await meta.graph.send("15550000004")

    assert "15550000004" in answer["error"]["error_data"]["details"]


@pytest.mark.parametrize(
    ("suffix", "sends", "statuses"),
    [
        pytest.param("0009", 1, 3, id="cut-after-accepting"),
        pytest.param("0010", 0, 0, id="cut"),
        pytest.param("0018", 0, 0, id="504"),
    ],
)
async def test_a_silent_recipient_leaves_the_outcome_open(
    meta: Any, receiver: Any, suffix: str, sends: int, statuses: int
) -> None:
    with pytest.raises(GraphOutcomeUnknown):
        await send_with_client(meta.simulator.url, f"1555000{suffix}")
    await meta.simulator.settle()

    assert meta.simulator.counts.sends == sends
    assert len(receiver.items("statuses")) == statuses


async def test_a_slow_recipient_leaves_the_outcome_open_and_is_served(
    started: Any, receiver: Any
) -> None:
    async with started(webhook_url=receiver.url, slow_answer_seconds=600) as meta:
        with pytest.raises(GraphOutcomeUnknown):
            await send_with_client(meta.simulator.url, "15550000008", read_seconds=0.2)
        while not meta.simulator.counts.sends:  # counts have no event
            await asyncio.sleep(0.005)
        await meta.simulator.settle()

    assert meta.simulator.counts.sends == 1
    assert len(receiver.items("statuses")) == 3


async def test_broken_json_means_accepted(meta: Any, receiver: Any) -> None:
    answer = await send_with_client(meta.simulator.url, "15550000012")
    await meta.simulator.settle()

    assert answer.payload is None
    assert meta.simulator.counts.sends == 1
    assert len(receiver.items("statuses")) == 3


@pytest.mark.parametrize(("suffix", "code"), [("0001", 131026), ("0002", 131047), ("0014", 131049)])
async def test_a_failure_recipient_fails_by_webhook(
    meta: Any, receiver: Any, suffix: str, code: int
) -> None:
    answer = await send_with_client(meta.simulator.url, f"1555000{suffix}")
    await meta.simulator.settle()

    [item] = receiver.items("statuses")
    assert item["id"] == answer.payload["messages"][0]["id"]
    assert (item["status"], item["errors"][0]["code"]) == ("failed", code)


@pytest.mark.parametrize(
    ("suffix", "order"),
    [("0015", ["sent", "read"]), ("0016", ["delivered", "sent", "read"])],
)
async def test_statuses_may_be_skipped_or_arrive_out_of_order(
    meta: Any, receiver: Any, suffix: str, order: list[str]
) -> None:
    await meta.graph.send(f"1555000{suffix}")
    await meta.simulator.settle()

    items = receiver.items("statuses")
    assert [item["status"] for item in items] == order
    by_time = sorted(items, key=lambda item: int(item["timestamp"]))
    assert [item["status"] for item in by_time] == [
        name for name in ("sent", "delivered", "read") if name in order
    ]


async def test_a_status_may_overtake_the_response(started: Any, receiver: Any) -> None:
    async with started(webhook_url=receiver.url, answer_delay_seconds=0.1) as meta:
        seen: list[str] = []
        receiver.on_post = lambda: seen.append("status")
        answer = await meta.graph.send("15550000017")
        seen.append("answer")
        await meta.simulator.settle()

    assert answer[0] == 200
    assert seen[0] == "status"
    assert [item["status"] for item in receiver.items("statuses")] == ["sent", "delivered", "read"]


async def test_each_number_has_rate_limits_and_messages_of_its_own(started: Any) -> None:
    berlin = SimulatedNumber(phone_number_id="300001", waba_id="9", display_phone_number="1555")
    text = {"type": "text", "text": {"body": "Hello"}}
    message = {"messaging_product": "whatsapp", "to": "15550002222", **text}
    async with started(numbers=(berlin,), pair_burst=1) as meta:
        meta.simulator.inbound("15550002222", "Hi", number="300001")
        paths = [f"/v25.0/{number}/messages" for number in (NUMBER, "300001", "300001")]
        answers = [await meta.graph.call("POST", path, message) for path in paths]

    assert [status for status, _ in answers] == [200, 200, 400]
    shown = [(each.sender, each.recipient) for each in meta.simulator.messages]
    assert shown == [
        ("15550002222", "1555"),
        ("15550001111", "15550002222"),
        ("1555", "15550002222"),
    ]


def test_every_documented_recipient_is_tested() -> None:
    tested = {
        *("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010"),
        *("0011", "0012", "0013", "0014", "0015", "0016", "0017", "0018"),
    }

    assert set(BY_SUFFIX) == tested


async def test_a_stopped_simulator_is_unreachable(started: Any) -> None:
    async with started() as meta:
        pass

    with pytest.raises(GraphUnreachable):
        await send_with_client(meta.simulator.url, "15550002222")


async def test_a_cut_connection_logs_nothing(meta: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    with pytest.raises(aiohttp.ClientError):
        await meta.graph.send("15550000009")
    await asyncio.sleep(0.05)

    assert caplog.records == []


async def test_a_marketing_message_is_accepted_and_its_statuses_follow(
    meta: Any, receiver: Any
) -> None:
    status, answer = await meta.graph.call(
        "POST", f"/v25.0/{NUMBER}/marketing_messages", {**MARKETING, "product_policy": "STRICT"}
    )
    await meta.simulator.settle()

    (message,) = answer["messages"]
    assert (status, message["message_status"]) == (200, "accepted")
    assert answer["contacts"] == [{"input": "+15550002222", "wa_id": "15550002222"}]
    assert receiver.statuses_of(message["id"]) == ["sent", "delivered", "read"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"messaging_product": "x"}, 100),
        ({"type": "text", "text": {"body": "Hello"}}, 134100),
        ({"template": {"name": "sale"}}, 131008),
        ({"recipient_type": "group", "to": "Y2FwaV9ncm91cA"}, 100),
        ({"product_policy": "LAX"}, 100),
        ({"product_policy": ["STRICT"]}, 100),
        ({"message_activity_sharing": 1}, 100),
        ({"to": "+15550000004"}, 131056),
    ],
)
async def test_an_invalid_marketing_message_is_refused(
    meta: Any, changes: dict[str, object], code: int
) -> None:
    _, answer = await meta.graph.call(
        "POST", f"/v25.0/{NUMBER}/marketing_messages", {**MARKETING, **changes}
    )

    assert answer["error"]["code"] == code
    assert meta.simulator.counts.sends == 0


@pytest.mark.parametrize("kind", [None, 1, [], {}, ["text"]])
async def test_a_type_that_is_not_a_text_is_refused(meta: Any, kind: object) -> None:
    status, answer = await meta.graph.send("15550002222", type=kind)

    assert (status, answer["error"]["code"]) in {(400, 100), (400, 131009)}
