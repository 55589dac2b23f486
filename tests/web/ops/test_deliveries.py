"""The admin routes of deliveries, inside the process."""

from datetime import UTC, datetime
from typing import Any

import pytest

from wats.store import receive
from wats.store.admin import DEAD_LETTERS, OUTSTANDING
from wats.store.records import Arrival, Consumer, DeliveryState, Depth, Settlement

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
RETRY, REPLAY = "/api/admin/deliveries/retry", "/api/admin/deliveries/replay"


async def deliver(service: Any, state: DeliveryState) -> str:
    """Store an update whose call ended with *state*; return the id of the delivery."""
    await service.store.register([Consumer(name="a"), Consumer(name="b")])
    arrival = Arrival(
        key=bytes(16),
        occurred_at=NOON,
        received_at=NOON,
        kind="message",
        phone_number_id="1",
        ordering_key=7,
        payload=b'{"kind":"message"}',
        consumers=("a",),
    )
    await receive(service.store, [arrival])
    claimed = await service.store.claim("a", 1)
    await service.store.settle([Settlement(claimed.deliveries[0], state, 600, "ValueError")])
    wanted = DEAD_LETTERS if state is DeliveryState.DEAD else OUTSTANDING
    (stored,) = (await service.store.list_deliveries(wanted, limit=9)).items
    return str(stored.id)


async def test_a_retry_ends_a_backoff(service: Any) -> None:
    id_ = await deliver(service, DeliveryState.RETRY)

    answer = await service.ask("POST", RETRY, {"ids": [id_, id_, "999"]})

    assert (answer.status, answer.json) == (200, {"changed": 1})
    assert len((await service.store.claim("a", 1)).deliveries) == 1
    assert service.log[-1]["action"] == "deliveries_retried"


async def test_a_dead_letter_is_replayed_to_another_consumer(service: Any) -> None:
    id_ = await deliver(service, DeliveryState.DEAD)

    answer = await service.ask("POST", REPLAY, {"ids": [id_], "consumer": "b"})

    assert (answer.status, answer.json) == (200, {"changed": 1})
    depths = (await service.store.depth()).consumers
    assert (depths["a"], depths["b"]) == (Depth(dead=1), Depth(pending=1))
    logged = service.log[-1]
    assert (logged["action"], logged["count"]) == ("deliveries_replayed", 1)


async def test_a_replay_to_an_unknown_consumer_is_refused(service: Any) -> None:
    id_ = await deliver(service, DeliveryState.DEAD)

    answer = await service.ask("POST", REPLAY, {"ids": [id_], "consumer": "15550001234"})

    assert (answer.status, answer.code) == (404, "consumer_not_found")
    assert b"15550001234" not in answer.body


@pytest.mark.parametrize(
    "body",
    [
        {"ids": ["1"]},
        {"ids": [], "consumer": "a"},
        {"ids": ["1"], "consumer": ""},
        {"ids": ["0"], "consumer": "a"},
        {"ids": ["1"] * 101, "consumer": "a"},
    ],
)
async def test_an_invalid_replay_is_refused(service: Any, body: Any) -> None:
    answer = await service.ask("POST", REPLAY, body)

    assert (answer.status, answer.code) == (400, "malformed_body")


async def test_files_are_searched_only_on_request(service: Any) -> None:
    path, user = "/api/admin/erasures", {"user": "15550001234", "dryRun": True}

    plain = await service.ask("POST", path, user)
    searched = await service.ask("POST", path, {**user, "searchFiles": True})
    erased = await service.ask("POST", path, {**user, "dryRun": False, "searchFiles": True})

    traces = [each.json["counts"]["traces"] for each in (plain, searched, erased)]
    assert traces == [None, 0, None]
