"""The customers' phones: every message that they would show, in both directions. No I/O."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from wats.clock import Now, to_iso
from wats.simulator.content import PhoneContent, content_of

MAX_MESSAGES: Final = 1_000
MAX_TEXT: Final = 6_000
MAX_NAME: Final = 256
_QUOTED: Final = 30
# Emoji are joined by it; it moves no cursor.
_ZERO_WIDTH_JOINER: Final = "\u200d"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneMessage:
    """A message, a reaction or a read mark on a customer's phone.

    Attributes:
        cursor: Its position since the start of the simulator, from 1.
        at: The moment, as ISO text.
        direction: `inbound` is from a customer, `outbound` from the business.
        sender: The number of the author.
        recipient: The number, user id or group.
        id: The WhatsApp id; empty for a read mark.
        type: The type of the message, or `read`.
        text: The visible text.
        buttons: The titles that the customer can tap.
        reply_to: The id of the message that this one answers or marks, or an empty text.
    """

    cursor: int
    at: str
    direction: Literal["inbound", "outbound"]
    sender: str
    recipient: str
    id: str
    type: str
    text: str
    buttons: tuple[str, ...]
    reply_to: str

    def as_json(self) -> dict[str, Any]:
        """Return the message for the control API, under Meta's names."""
        return {
            "cursor": self.cursor,
            "at": self.at,
            "direction": self.direction,
            "from": self.sender,
            "to": self.recipient,
            "id": self.id or None,
            "type": self.type,
            "text": self.text,
            "buttons": list(self.buttons),
            "reply_to": self.reply_to or None,
        }


class Phone:
    """The last messages of all customers, oldest first; the older ones are forgotten."""

    def __init__(self, now: Now, *, capacity: int = MAX_MESSAGES) -> None:
        self._now = now
        self._messages: deque[PhoneMessage] = deque(maxlen=capacity)
        self._last = 0
        self.write: Callable[[str], object] | None = None
        """Called with the line of each message, if set."""

    @property
    def messages(self) -> tuple[PhoneMessage, ...]:
        """The messages, oldest first."""
        return tuple(self._messages)

    def page(self, after: int | None, limit: int) -> list[PhoneMessage]:
        """Return the first *limit* messages after the cursor *after*; without it, the last ones."""
        if after is None:
            return list(self._messages)[max(0, len(self._messages) - limit) :]
        return [each for each in self._messages if each.cursor > after][:limit]

    def receive(
        self, business: str, message_id: str, recipient: str, message: Mapping[str, Any]
    ) -> None:
        """Show a *message* of the number *business*, in Graph's form, to *recipient*."""
        content = content_of(message)
        self._add("outbound", business, recipient, message_id, message.get("type"), content)

    def send(self, business: str, message: Mapping[str, Any]) -> None:
        """Show a customer's *message* to the number *business*, in the form of a webhook."""
        sender, recipient = message.get("from"), message.get("group_id") or business
        content = content_of(message)
        self._add("inbound", sender, recipient, message.get("id"), message.get("type"), content)

    def mark_read(self, business: str, message_id: str, *, is_typing: bool) -> None:
        """Show that *business* has read a customer's message, and perhaps types an answer."""
        message = self._find(message_id)
        if message is not None and message.direction == "inbound":
            content = PhoneContent("typing…" if is_typing else "", reply_to=message_id)
            self._add("outbound", business, message.sender, "", "read", content)

    def line_of(self, message: PhoneMessage) -> str:
        """Return *message* as one line without control characters."""
        parts = [f"{message.at[11:19]} {message.sender} → {message.recipient}:"]
        if message.type != "text":
            parts.append(f"[{message.type}]")
        parts.append(message.text)
        parts += [f"[{title}]" for title in message.buttons]
        if message.reply_to:
            parts.append(f"(to {self._quote(message.reply_to)})")
        return harmless(" ".join(filter(None, parts)))

    def _quote(self, message_id: str) -> str:
        found = self._find(message_id)
        if found is None:
            return "an unknown message"
        text = found.text or f"[{found.type}]"
        return f'"{text if len(text) <= _QUOTED else text[:_QUOTED].rstrip() + "…"}"'

    def _find(self, message_id: str) -> PhoneMessage | None:
        newest_first = reversed(self._messages)
        return next((each for each in newest_first if each.id == message_id), None)

    def _add(
        self,
        direction: Literal["inbound", "outbound"],
        sender: object,
        recipient: object,
        message_id: object,
        kind: object,
        content: PhoneContent,
    ) -> None:
        self._last += 1
        message = PhoneMessage(
            cursor=self._last,
            at=to_iso(self._now()),
            direction=direction,
            sender=_name(sender),
            recipient=_name(recipient),
            id=_name(message_id),
            type=_name(kind),
            text=content.text[:MAX_TEXT],
            buttons=tuple(title[:MAX_NAME] for title in content.buttons),
            reply_to=content.reply_to[:MAX_NAME],
        )
        self._messages.append(message)
        if self.write is not None:
            self.write(self.line_of(message))


def harmless(text: str) -> str:
    """Return *text* as one line: the other characters that could control a terminal are escaped."""
    return "".join(
        each
        if each.isprintable() or each == _ZERO_WIDTH_JOINER
        else " ⏎ "
        if each == "\n"
        else ascii(each)[1:-1]
        for each in text
    )


def _name(value: object) -> str:
    return value[:MAX_NAME] if isinstance(value, str) else ""
