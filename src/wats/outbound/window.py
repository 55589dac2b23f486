"""The customer service window, and the guard that refuses messages outside of it.

Meta decides whether a window is open. The guard refuses a message only if Meta must refuse it too:

    the customer's last message or call
    │◀──── 24 hours ────▶│◀ unclear ▶│◀──── certainly closed ────▶│ 30 days
    │        open        │  allowed  │          refused           │ allowed
"""

from datetime import datetime, timedelta
from typing import Final

from wats.clock import Now, to_ms, utc_now
from wats.errors import StoreError, WindowClosed
from wats.outbound.messages import Outgoing, is_phone
from wats.store import MessageStore
from wats.telemetry import Telemetry

WINDOW: Final = timedelta(hours=24)
CLOCK_TOLERANCE: Final = timedelta(minutes=10)
"""The possible difference between Meta's clock and ours, generously."""
CERTAIN: Final = timedelta(days=30)
"""How long Meta reports the phone number of a customer after the last contact.

A customer with a username may later write under a business-scoped user id only, which opens a
window that is not recorded for the number.
"""

FREE_FORM: Final = frozenset(
    {
        "audio", "contacts", "document", "image", "interactive", "location", "reaction", "sticker",
        "text", "video",
    }
)  # fmt: skip
"""The types that need an open window. Templates need none, nor may a type that Meta adds."""


def remaining_ms(now: datetime, last_inbound_at: datetime) -> int:
    """Return how long the window of a message at *last_inbound_at* stays open after *now*.

    It is open for less than 24 hours: when they are over to the millisecond, it is closed. A
    message from the future, as seen by a slow clock, has just arrived.
    """
    age_ms = max(to_ms(now) - to_ms(last_inbound_at), 0)
    return max(_ms(WINDOW) - age_ms, 0)


def is_certainly_closed(now: datetime, last_inbound_at: datetime | None) -> bool:
    """Return whether Meta, too, must consider this window closed; not without any record."""
    if last_inbound_at is None or now - last_inbound_at >= CERTAIN:
        return False
    return remaining_ms(now - CLOCK_TOLERANCE, last_inbound_at) == 0


class WindowGuard:
    """Refuses free-form messages to customers whose window is certainly closed.

    Args:
        store: The store of windows, which is read once for each free-form message.
        telemetry: Records failed reads.
        now: The clock.
    """

    def __init__(self, store: MessageStore, telemetry: Telemetry, now: Now = utc_now) -> None:
        self._store = store
        self._telemetry = telemetry
        self._now = now

    async def check(self, message: Outgoing, phone_number_id: str) -> None:
        """Refuse *message* if its recipient cannot be sent it by this number.

        A failed read refuses nothing: without the guard, the message would have been sent.

        Raises:
            WindowClosed: The window is certainly closed.
        """
        if not _needs_window(message):
            return
        try:
            last = await self._store.last_inbound_at(
                phone_number_id=phone_number_id, customer=message.recipient
            )
        except StoreError as error:
            self._telemetry.errors.record(error)
            return
        if is_certainly_closed(self._now(), last):
            raise WindowClosed


def _needs_window(message: Outgoing) -> bool:
    """Return whether *message* needs an open window that is recorded if it exists.

    Groups have no window. A customer with a user id may have a phone number too, under which the
    window is recorded then.
    """
    is_free_form = message.type in FREE_FORM and not message.is_group
    return is_free_form and is_phone(message.recipient)


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
