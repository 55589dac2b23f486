"""Sends of the process itself: a message, and its result. No I/O."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import msgspec


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a send that Meta accepted, or may have accepted.

    Attributes:
        message_id: The WhatsApp id of the message. `None` if Meta's response has none, or if the
            outcome is unknown.
        is_replayed: Whether an earlier send with the same idempotency key had this result, so that
            nothing was sent now.
        is_certain: Whether Meta accepted the message. Only a reply can be uncertain: a repeated one
            of which an earlier attempt may or may not have reached the recipient.
    """

    message_id: str | None
    is_replayed: bool = False
    is_certain: bool = True


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a handler to the customer or the group whose message it handles.

    Attributes:
        message: The message in Graph's format, with its recipient; or a read mark.
        phone_number_id: The business number that sends it; the configured one by default.
        key: The idempotency key; `None` if a repetition has no effect.
    """

    message: Mapping[str, object]
    phone_number_id: str | None
    key: str | None


SendReply: TypeAlias = Callable[[Reply], Awaitable[Sent]]
"""Sends a reply like a request to the HTTP API."""
