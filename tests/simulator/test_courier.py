import asyncio
import hashlib
import hmac
import json
from typing import Any

from wats.privacy import Secret
from wats.simulator.bodies import message_part
from wats.simulator.courier import Courier
from wats.simulator.settings import Counts, SimulatorSettings

TEXT = {"type": "text", "text": {"body": "Hi"}}


def expected_signature(body: bytes) -> str:
    return "sha256=" + hmac.new(b"app secret", body, hashlib.sha256).hexdigest()


async def test_a_webhook_is_signed_over_the_bytes_that_are_sent(meta: Any, receiver: Any) -> None:
    meta.simulator.inbound("15550002222", "é / \U0001f600")
    await meta.simulator.settle()

    [body], [headers] = receiver.bodies, receiver.headers
    assert headers["x-hub-signature-256"] == expected_signature(body)
    assert headers["content-type"] == "application/json"
    [message] = receiver.items("messages")
    assert message["text"]["body"] == "é / \U0001f600"


async def test_a_webhook_without_a_200_response_is_delivered_again(
    meta: Any, receiver: Any
) -> None:
    receiver.statuses = [500, 404, 204]

    [wamid] = meta.simulator.inbound("15550002222", "Hi")
    await meta.simulator.settle()

    assert [item["id"] for item in receiver.items("messages")] == [wamid] * 4
    counts = meta.simulator.counts
    assert (counts.webhooks, counts.webhook_failures, counts.redeliveries) == (4, 3, 3)
    assert counts.delivered == 1


async def test_a_failed_delivery_is_built_again_for_each_attempt(
    started: Any, receiver: Any
) -> None:
    receiver.statuses = [503] * 3

    async with started(
        webhook_url=receiver.url, batch_size=5, couriers=1, time_factor=0.005
    ) as meta:
        wamids = meta.simulator.inbound("15550002222", "Hi", count=15)
        await meta.simulator.settle()

    together = [
        frozenset(
            item["id"]
            for entry in one["entry"]
            for change in entry["changes"]
            for item in change["value"]["messages"]
        )
        for one in receiver.envelopes
    ]
    assert frozenset().union(*together[3:]) == set(wamids)
    assert not set(together[3:]) & set(together[:3])


async def test_the_seed_selects_the_items_that_are_delivered_twice(
    started: Any, receiver: Any
) -> None:
    seen = []
    for _ in range(2):
        receiver.envelopes.clear()
        async with started(
            webhook_url=receiver.url, duplicate_rate=0.5, seed=7, couriers=1
        ) as meta:
            wamids = meta.simulator.inbound("15550002222", "Hi", count=20)
            await meta.simulator.settle()
            assert meta.simulator.counts.delivered == 20 + meta.simulator.counts.duplicates
        arrived = [item["id"] for item in receiver.items("messages")]
        seen.append([arrived.count(wamid) for wamid in wamids])

    assert set(seen[0]) == {1, 2}
    assert seen[0] == seen[1]


async def test_several_messages_share_a_webhook(meta: Any, receiver: Any) -> None:
    meta.simulator.inbound("15550002222", "Hi", count=45)
    await meta.simulator.settle()

    assert len(receiver.items("messages")) == 45
    assert len(receiver.envelopes) == 3


async def test_without_a_webhook_everything_is_dropped(started: Any) -> None:
    async with started() as meta:
        meta.simulator.inbound("15550002222", "Hi", count=3)
        await meta.simulator.settle()

        assert meta.simulator.counts.dropped == 3
        assert meta.simulator.counts.webhooks == 0
        assert not await meta.simulator.verify_webhook()


async def test_the_webhook_can_be_set_later(started: Any, receiver: Any) -> None:
    async with started() as meta:
        meta.simulator.set_webhook(receiver.url)
        meta.simulator.inbound("15550002222", "Hi")
        await meta.simulator.settle()

    assert len(receiver.items("messages")) == 1


async def test_a_webhook_that_is_down_is_tried_until_it_is_given_up(started: Any) -> None:
    async with started(webhook_url="http://127.0.0.1:1/", time_factor=1e-7) as meta:
        meta.simulator.inbound("15550002222", "Hi")
        await meta.simulator.settle()

        assert meta.simulator.counts.dropped == 1
        assert meta.simulator.counts.webhook_failures > 1


async def test_a_receiver_that_hangs_counts_as_failed(started: Any) -> None:
    may_end = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await may_end.wait()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server, started(webhook_url=url, webhook_timeout_seconds=0.05) as meta:
        meta.simulator.inbound("15550002222", "Hi")
        while not meta.simulator.counts.webhook_failures:  # counts have no event
            await asyncio.sleep(0.01)
        may_end.set()  # since Python 3.12, a server waits for its connections to end


async def test_the_challenge_is_metas(meta: Any, receiver: Any) -> None:
    assert await meta.simulator.verify_webhook()

    meta.simulator.set_webhook(receiver.url + "/wrong")
    assert not await meta.simulator.verify_webhook()

    meta.simulator.set_webhook("http://127.0.0.1:1/")
    assert not await meta.simulator.verify_webhook()


async def test_a_stopped_courier_delivers_nothing(receiver: Any) -> None:
    settings = SimulatorSettings(
        app_secret=Secret("s"), verify_token=Secret("v"), webhook_url=receiver.url
    )
    courier = Courier(settings, Counts())
    await courier.start()
    await courier.stop()

    await courier.deliver_now([message_part("1", TEXT, name="N", at=1)])
    await courier.stop()

    assert receiver.envelopes == []
    assert courier.pending == 1


async def test_pending_counts_deliveries_in_progress(meta: Any, receiver: Any) -> None:
    pending: list[int] = []
    receiver.on_post = lambda: pending.append(meta.simulator.pending)

    meta.simulator.inbound("15550002222", "Hi", count=2)
    await meta.simulator.settle()

    assert pending == [2]
    assert meta.simulator.pending == 0
    assert json.loads(receiver.bodies[0])["object"] == "whatsapp_business_account"
