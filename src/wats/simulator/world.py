"""The state and actions of the simulated Meta, behind its HTTP endpoints."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from wats.clock import utc_now
from wats.simulator.bodies import WebhookPart, message_part, new_wamid, pricing_of, status_part
from wats.simulator.business import BusinessObjects
from wats.simulator.courier import Courier
from wats.simulator.faults import GraphFault, invalid
from wats.simulator.groups import Groups
from wats.simulator.limits import RateLimit
from wats.simulator.media import MediaFiles
from wats.simulator.messages import Addressee
from wats.simulator.phone import Phone
from wats.simulator.recipients import USUAL, Behavior, behavior_of
from wats.simulator.settings import AcceptedMessage, Counts, SimulatorSettings

_KEPT_MESSAGES: Final = 10_000
# Meta reports the price of a message in these statuses; `read` has none.
_PRICED: Final = frozenset({"sent", "delivered"})
_NATURAL_ORDER: Final = ("sent", "delivered", "read")


class World:
    """Business numbers, their objects and webhook, and the phones of their customers."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self.settings = settings
        self.counts = Counts()
        self.courier = Courier(settings, self.counts)
        self.groups = Groups()
        self.business = BusinessObjects()
        self.media = MediaFiles(settings.media_url_seconds)
        self._number_limit = RateLimit(settings.messages_per_second, settings.messages_per_second)
        self._pair_limit = RateLimit(settings.pair_burst, 1 / settings.pair_seconds)
        self.phone = Phone(utc_now)
        self.accepted: deque[AcceptedMessage] = deque(maxlen=_KEPT_MESSAGES)

    def state(self) -> dict[str, int]:
        """Return every count, and the present numbers of objects."""
        numbers = {"groups": len(self.groups), "media": len(self.media)}
        return {**asdict(self.counts), **numbers, "pending": self.courier.pending}

    def behavior_of(self, addressee: Addressee) -> Behavior:
        """Return the outcome of a message to *addressee*."""
        return behavior_of(addressee.id) if addressee.kind == "individual" else USUAL

    def check_limits(self, addressee: Addressee, number: str) -> None:
        """Refuse a message of *number* that exceeds a rate limit.

        Raises:
            GraphFault: It does.
        """
        if self._number_limit.is_exceeded(number):
            self.counts.number_limits += 1
            raise GraphFault(429, 130429)
        pair = f"{number} {addressee.id}"
        if addressee.kind != "group" and self._pair_limit.is_exceeded(pair):
            self.counts.pair_limits += 1
            raise GraphFault(400, 131056)

    def accept(
        self,
        payload: Mapping[str, Any],
        addressee: Addressee,
        behavior: Behavior,
        number: str = "",
    ) -> AcceptedMessage:
        """Accept a message, and show it on the phone unless it fails; its statuses follow later."""
        message = AcceptedMessage(
            wamid=new_wamid(addressee.id),
            recipient=addressee.id,
            payload=dict(payload),
            number=number,
        )
        self.counts.sends += 1
        self.accepted.append(message)
        if behavior.failure is None:
            business = self._displayed(number)
            self.phone.receive(business, message.wamid, message.recipient, payload)
        return message

    def mark_read(self, number: str, message_id: str, *, is_typing: bool) -> None:
        """Mark a customer's message to *number* as read."""
        self.counts.read_marks += 1
        self.phone.mark_read(self._displayed(number), message_id, is_typing=is_typing)

    def statuses_of(
        self, message: AcceptedMessage, addressee: Addressee, behavior: Behavior
    ) -> list[WebhookPart]:
        """Return the statuses of *message* as they arrive, with the times when they happened."""
        number = message.number
        now = int(time.time())
        callback_data = message.payload.get("biz_opaque_callback_data")
        pricing = pricing_of(str(message.payload.get("type")))
        return [
            replace(
                status_part(
                    message.wamid,
                    status,
                    recipient,
                    at=now + (_NATURAL_ORDER.index(status) if status in _NATURAL_ORDER else 0),
                    pricing=pricing if status in _PRICED else None,
                    callback_data=callback_data if isinstance(callback_data, str) else None,
                    error_code=behavior.failure if status == "failed" else None,
                ),
                number=number,
            )
            for status in behavior.statuses
            for recipient in self._recipients(addressee, status)
        ]

    def schedule(self, parts: Sequence[WebhookPart]) -> None:
        """Deliver *parts* one after the other, each after the configured pause."""
        for position, part in enumerate(parts, 1):
            self.courier.schedule(part, position * self.settings.status_delay_seconds)

    def inbound(
        self,
        sender: str,
        content: Mapping[str, Any],
        *,
        name: str,
        count: int = 1,
        group_id: str | None = None,
        number: str = "",
    ) -> list[str]:
        """Send *content* from *sender* to *number*, *count* times; return the ids of the messages.

        A number that is not known is one of another service of the app.
        """
        if group_id is not None and sender not in self.groups.participants(group_id):
            raise invalid("The sender is not in this group.")
        now = int(time.time())
        parts = [
            replace(
                message_part(sender, content, name=name, at=now, group_id=group_id), number=number
            )
            for _ in range(count)
        ]
        for part in parts:
            self.phone.send(self._displayed(number), part.item)
            self.courier.schedule(part)
        self.counts.inbound += count
        return [part.item["id"] for part in parts]

    def join(self, group_id: str, wa_id: str) -> None:
        """Follow the invite link of a group as a participant."""
        self.schedule(self.groups.join(group_id, wa_id))

    async def settled(self) -> None:
        """Return when no webhook is pending or being delivered."""
        await self.courier.idle()

    def _displayed(self, number: str) -> str:
        """Return a business number as people see it; its phone number id if it is not known."""
        found = self.settings.number(number or self.settings.phone_number_id)
        displayed = found.display_phone_number if found is not None else ""
        return displayed or number

    def _recipients(self, addressee: Addressee, status: str) -> list[dict[str, str]]:
        if addressee.kind == "user":
            return [{"recipient_user_id": addressee.id}]
        if addressee.kind == "individual":
            return [{"recipient_id": addressee.id}]
        group = {"recipient_id": addressee.id, "recipient_type": "group"}
        if status == "sent" or addressee.id not in self.groups:
            return [group]
        people = self.groups.participants(addressee.id)
        return [{**group, "recipient_participant_id": wa_id} for wa_id in people]
