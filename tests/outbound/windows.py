"""Service windows in a store."""

from datetime import datetime

from wats.store import Store, receive
from wats.store.records import Arrival, WindowRecord

NUMBER = "15551234567"


async def open_window(
    store: Store, at: datetime, customer: str = "15551230000", number: str = NUMBER
) -> None:
    """Record that *customer* called *number*."""
    arrival = Arrival(
        key=customer.encode().ljust(16, b"-"),
        occurred_at=at,
        received_at=at,
        kind="callConnect",
        phone_number_id=number,
        ordering_key=1,
        payload=b"{}",
        window=WindowRecord(phone_number_id=number, customer=customer, last_inbound_at=at),
    )
    await receive(store, [arrival])
