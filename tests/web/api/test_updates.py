import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.web.conftest import Answer, call
from wats.config import PullerConfig, TelemetryConfig
from wats.inbound.pullers import MAX_POLLS
from wats.service import WatsApp, create_wats_service_app
from wats.store.records import Depth
from wats.store.sqlite import SQLiteStore
from wats.testing import BEARER_TOKEN, FakeClock, example_profile, example_secrets, sign

BEARER = {"authorization": f"Bearer {BEARER_TOKEN}"}
PULLERS = (
    PullerConfig(name="batch", lease_seconds=60.0, max_attempts=2),
    PullerConfig(name="other", kinds=("status",)),
)


def message(number: int, customer: str = "15550000001", text: str = "Hello") -> bytes:
    item = {
        "id": f"wamid.{number}",
        "from": customer,
        "timestamp": "1790000000",
        "type": "text",
        "text": {"body": text},
    }
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "1", "phone_number_id": "15551234567"},
        "messages": [item],
    }
    change = {"field": "messages", "value": value}
    return json.dumps(
        {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}
    ).encode()


class PulledService:
    """A service with pullers in this process, whose store has a clock that tests advance."""

    def __init__(self, app: WatsApp, store: SQLiteStore, clock: FakeClock) -> None:
        self.app = app
        self.store = store
        self.clock = clock
        self.log: list[Mapping[str, object]] = []

    async def receive(self, *bodies: bytes) -> None:
        for body in bodies:
            signed = {"x-hub-signature-256": sign(body)}
            answer = await call(self.app, "POST", "/webhooks/whatsapp", signed, body)
            assert answer.status == 200

    async def poll(self, query: str = "consumer=batch&wait=0") -> Answer:
        return await call(self.app, "GET", f"/api/updates?{query}", BEARER, None)

    async def pull(self, query: str = "consumer=batch&wait=0") -> Sequence[Any]:
        answer = await self.poll(query)
        assert answer.status == 200
        found: Sequence[Any] = answer.json["updates"]
        return found

    async def ack(self, *updates: Mapping[str, object]) -> Sequence[str]:
        body = json.dumps({"updates": updates}).encode()
        answer = await call(self.app, "POST", "/api/updates/ack", BEARER, body)
        assert answer.status == 200, answer.body
        return [each["result"] for each in answer.json["updates"]]

    async def depth(self) -> Depth:
        return (await self.store.depth()).consumers["batch"]


@asynccontextmanager
async def pulled_service(**sections: Any) -> AsyncIterator[PulledService]:
    clock = FakeClock()
    store = SQLiteStore(":memory:", now=clock)
    app = create_wats_service_app(
        profile=example_profile(pullers=PULLERS, **sections),
        secrets=example_secrets(),
        persistence=store,
        now=clock,
        log=lambda _: None,
    )
    await app.start()
    try:
        yield PulledService(app, store, clock)
    finally:
        await app.stop()


@pytest.fixture
async def service() -> AsyncIterator[PulledService]:
    async with pulled_service() as running:
        yield running


async def test_an_update_waits_until_it_is_acknowledged(service: PulledService) -> None:
    await service.receive(message(1))

    (pulled,) = await service.pull()
    again = await service.pull()
    results = await service.ack({"receipt": pulled["receipt"]})

    assert pulled["attempt"] == 1
    assert pulled["update"]["raw"]["id"] == "wamid.1"
    assert list(pulled["update"]) == [
        *("key", "kind", "field", "wabaId", "phoneNumberId", "displayPhoneNumber"),
        *("conversation", "occurredAt", "receivedAt", "contact", "raw"),
    ]
    assert again == []
    assert results == ["done"]
    assert await service.depth() == Depth()


async def test_the_updates_of_a_conversation_are_pulled_one_after_the_other(
    service: PulledService,
) -> None:
    await service.receive(message(1), message(2), message(3, "15550000002"))

    first = await service.pull()
    await service.ack({"receipt": first[0]["receipt"]})
    second = await service.pull()

    assert [each["update"]["raw"]["id"] for each in first] == ["wamid.1", "wamid.3"]
    assert [each["update"]["raw"]["id"] for each in second] == ["wamid.2"]


async def test_a_puller_gets_its_kinds_only(service: PulledService) -> None:
    await service.receive(message(1))

    assert await service.pull("consumer=other&wait=0") == []


async def test_polls_of_some_kinds_leave_the_others_to_other_polls(
    service: PulledService,
) -> None:
    statuses = asyncio.create_task(service.pull("consumer=batch&kinds=status,account&wait=1"))
    messages = asyncio.create_task(service.pull("consumer=batch&kinds=message&wait=60"))
    await asyncio.sleep(0.05)

    await service.receive(message(1))

    async with asyncio.timeout(45):
        assert [each["update"]["kind"] for each in await messages] == ["message"]
        assert await statuses == []


async def test_a_poll_waits_for_an_update(service: PulledService) -> None:
    polling = asyncio.create_task(service.pull("consumer=batch&wait=60"))
    await asyncio.sleep(0.05)

    await service.receive(message(1))

    async with asyncio.timeout(45):
        assert len(await polling) == 1


async def test_waiting_polls_share_the_updates(service: PulledService) -> None:
    query = "consumer=batch&wait=60&limit=1"
    polling = [asyncio.create_task(service.pull(query)) for _ in range(3)]
    await asyncio.sleep(0.05)

    await service.receive(*(message(n, f"1555000000{n}") for n in range(3)))

    async with asyncio.timeout(45):
        found = [each for pulled in await asyncio.gather(*polling) for each in pulled]
    assert sorted(each["update"]["raw"]["id"] for each in found) == [
        "wamid.0",
        "wamid.1",
        "wamid.2",
    ]


async def test_an_update_that_is_not_acknowledged_in_time_is_pulled_again(
    service: PulledService,
) -> None:
    await service.receive(message(1))
    (first,) = await service.pull()
    service.clock.advance(60)

    late = await service.ack({"receipt": first["receipt"]})
    (second,) = await service.pull()
    lost = await service.ack({"receipt": first["receipt"]})
    done = await service.ack({"receipt": second["receipt"]})

    assert (late, lost, done) == (["lease_lost"], ["lease_lost"], ["done"])
    assert (first["attempt"], second["attempt"]) == (1, 2)


async def test_an_update_that_is_never_acknowledged_becomes_a_dead_letter(
    service: PulledService,
) -> None:
    await service.receive(message(1), message(2))
    for _ in range(2):
        assert len(await service.pull()) == 1
        service.clock.advance(60)

    (following,) = await service.pull()

    assert following["update"]["raw"]["id"] == "wamid.2"
    assert (await service.depth()).dead == 1


async def test_a_retry_is_due_after_a_backoff_and_ends_as_a_dead_letter(
    service: PulledService,
) -> None:
    await service.receive(message(1))
    (first,) = await service.pull()

    retried = await service.ack({"receipt": first["receipt"], "retry": True})
    too_early = await service.pull()
    service.clock.advance(1)
    (second,) = await service.pull()
    dead = await service.ack({"receipt": second["receipt"], "retry": True})

    assert (retried, too_early, dead) == (["retry"], [], ["dead"])
    assert await service.depth() == Depth(dead=1)


async def test_a_postponed_update_keeps_its_attempts(service: PulledService) -> None:
    await service.receive(message(1))

    for _ in range(3):
        (pulled,) = await service.pull()
        assert await service.ack({"receipt": pulled["receipt"], "retry": 30}) == ["retry"]
        assert await service.pull() == []
        service.clock.advance(30)

    (pulled,) = await service.pull()
    assert pulled["attempt"] == 1


async def test_each_receipt_has_a_result_of_its_own(service: PulledService) -> None:
    await service.receive(message(1), message(2, "15550000002"))
    one, two = await service.pull()
    forged = one["receipt"][:-1] + ("A" if one["receipt"][-1] != "A" else "B")

    results = await service.ack(
        {"receipt": one["receipt"]},
        {"receipt": forged},
        {"receipt": "nonsense"},
        {"receipt": one["receipt"], "retry": True},
        {"receipt": two["receipt"], "retry": True},
    )

    assert results == ["done", "invalid_receipt", "invalid_receipt", "lease_lost", "retry"]


async def test_attempts_are_counted_when_they_are_acknowledged() -> None:
    operator = TelemetryConfig(families="operator")
    async with pulled_service(telemetry=operator) as service:
        await service.receive(*(message(n, f"1555000000{n}") for n in range(3)))
        one, two, three = [each["receipt"] for each in await service.pull()]
        service.clock.advance(20)
        await service.ack(
            {"receipt": one},
            {"receipt": two, "retry": True},
            {"receipt": three, "retry": 30},
        )
        metrics = (await call(service.app, "GET", "/metrics", BEARER, None)).body.decode()

    samples = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if "batch" in line)
    for outcome in ("success", "error", "skipped"):
        assert samples[f'wats_dispatch_total{{outcome="{outcome}",target="batch"}}'] == "1"
    assert samples['wats_consumer_lag_seconds_bucket{target="batch",le="15"}'] == "0"
    assert samples['wats_consumer_lag_seconds_bucket{target="batch",le="60"}'] == "1"


async def test_a_paused_puller_gets_nothing(service: PulledService) -> None:
    await service.receive(message(1))
    await service.store.pause("batch", is_paused=True)

    paused = await service.pull()
    await service.store.pause("batch", is_paused=False)

    assert paused == []
    assert len(await service.pull()) == 1


async def test_a_response_is_bounded_in_number_and_bytes(service: PulledService) -> None:
    large = "x" * 400_000
    await service.receive(*(message(n, f"1555000000{n}", large) for n in range(4)))

    two = await service.pull("consumer=batch&wait=0&limit=100")
    one = await service.pull("consumer=batch&wait=0&limit=1")

    assert (len(two), len(one)) == (2, 1)
    assert [each["attempt"] for each in (*two, *one)] == [1, 1, 1]
    assert await service.depth() == Depth(pending=1, leased=3)


async def test_the_number_of_waiting_polls_is_bounded(service: PulledService) -> None:
    query = "consumer=batch&wait=60"
    polling = [asyncio.create_task(service.poll(query)) for _ in range(MAX_POLLS)]
    await asyncio.sleep(0.05)

    refused = await service.poll(query)
    without_a_wait = await service.poll()
    await service.app.stop()

    assert (refused.status, refused.code) == (429, "too_many_polls")
    assert refused.headers["retry-after"] == "5"
    assert without_a_wait.status == 200
    assert {each.status for each in await asyncio.gather(*polling)} == {200}


async def test_a_drain_ends_the_waits_of_polls(service: PulledService) -> None:
    polling = asyncio.create_task(service.pull("consumer=batch&wait=60"))
    await asyncio.sleep(0.05)

    service.app.drain()

    async with asyncio.timeout(45):
        assert await polling == []
        await service.receive(message(1))
        (pulled,) = await service.pull("consumer=batch&wait=60")
        assert await service.ack({"receipt": pulled["receipt"]}) == ["done"]


@pytest.mark.parametrize("when", ["before", "during"])
async def test_a_client_that_hangs_up_leaves_no_lease(service: PulledService, when: str) -> None:
    hung_up = asyncio.Event()
    is_first = True

    async def receive() -> Any:
        nonlocal is_first
        if is_first:
            is_first = False
            return {"type": "http.request", "body": b""}
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        hung_up.set()  # while the response is written
        await asyncio.sleep(0.05)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/updates",
        "raw_path": b"/api/updates",
        "query_string": b"consumer=batch&wait=60",
        "headers": [(b"authorization", BEARER["authorization"].encode())],
    }
    polling = asyncio.create_task(service.app(scope, receive, send))
    await asyncio.sleep(0.05)

    if when == "before":
        hung_up.set()
        await polling
    await service.receive(message(1))
    await polling

    (pulled,) = await service.pull("consumer=batch&wait=5")
    assert pulled["attempt"] == 1


async def test_a_cancelled_poll_leaves_no_lease(service: PulledService) -> None:
    await service.receive(message(1))
    polling = asyncio.create_task(service.pull("consumer=batch&wait=60"))
    await asyncio.sleep(0)

    polling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polling

    (pulled,) = await service.pull("consumer=batch&wait=5")
    assert pulled["attempt"] == 1


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("wait=0", "consumer"),
        ("consumer=batch&wait=61", "wait"),
        ("consumer=batch&wait=-1", "wait"),
        ("consumer=batch&limit=0", "limit"),
        ("consumer=batch&limit=101", "limit"),
        ("consumer=batch&kinds=messages", "kinds"),
        ("consumer=batch&kind=message", "?"),
    ],
)
async def test_an_invalid_query_is_refused_by_its_path(
    service: PulledService, query: str, path: str
) -> None:
    answer = await service.poll(query)

    assert (answer.status, answer.code) == (400, "malformed_query")
    assert [each["path"] for each in answer.json["error"]["details"]] == [path]


async def test_an_unknown_puller_is_not_found(service: PulledService) -> None:
    answer = await service.poll("consumer=nobody&wait=0")

    assert (answer.status, answer.code) == (404, "consumer_not_found")


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"updates": []}',
        b'{"updates": [{}]}',
        b'{"updates": [{"receipt": 1}]}',
        b'{"updates": [{"receipt": "a", "retry": -1}]}',
        b'{"updates": [{"receipt": "a", "retry": 3601}]}',
        b'{"updates": [{"receipt": "a", "retry": "yes"}]}',
        json.dumps({"updates": [{"receipt": "a"}] * 101}).encode(),
    ],
)
async def test_a_malformed_acknowledgement_is_refused(service: PulledService, body: bytes) -> None:
    answer = await call(service.app, "POST", "/api/updates/ack", BEARER, body)

    assert (answer.status, answer.code) == (400, "malformed_body")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/updates?consumer=batch"), ("POST", "/api/updates/ack")]
)
async def test_the_routes_need_a_service_token(
    service: PulledService, method: str, path: str
) -> None:
    answer = await call(service.app, method, path, {}, None)

    assert (answer.status, answer.code) == (401, "unauthorized")
