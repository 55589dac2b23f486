"""Messages recorded as sent, for the statuses of a round."""

import asyncio
from pathlib import Path

from bench.payloads import PHONE_NUMBER_ID, Sent
from wats import open_store
from wats.clock import utc_now
from wats.store.records import Direction, MessageRecord


def record(database: Path, sent: Sent) -> None:
    """Record the messages *sent* in *database*, which a server may have open."""
    asyncio.run(_record(f"sqlite:///{database}", sent))


async def _record(url: str, sent: Sent) -> None:
    store = open_store(url)
    await store.open()
    try:
        await asyncio.gather(*(store.record_sent(_message(each)) for each in sent.ids()))
    finally:
        await store.close()


def _message(wa_message_id: str) -> MessageRecord:
    now = utc_now()
    return MessageRecord(
        phone_number_id=PHONE_NUMBER_ID,
        wa_message_id=wa_message_id,
        direction=Direction.OUTBOUND,
        to_phone="15550001234",
        type="text",
        status="accepted",
        created_at=now,
        updated_at=now,
    )
