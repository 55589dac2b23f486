"""Replies of handlers: the outlet of the call in progress, and the parts of messages. No I/O.

    update.reply ─▶ outlet of the handler's call ─▶ idempotency key ─▶ outbound transaction

An `Update` is a plain value that several handlers share. The means to reply belong to the call of a
handler, which runs in a context of its own, so tasks that the handler starts can reply too.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Final, Protocol, TypeAlias

from wats.errors import NoHandlerCall
from wats.sends import Sent

Content: TypeAlias = Mapping[str, object]
"""A part of a message in Graph's format."""


class Outlet(Protocol):
    """Sends the messages of one call of a handler.

    Attributes:
        name: The name of the handler.
    """

    name: str

    async def reply(
        self, message: Content, *, update_key: str, phone_number_id: str | None, name: str | None
    ) -> Sent:
        """Send *message* once for this handler, this update and *name*.

        Without a name, it is the position among the replies of the call that have none.
        """

    async def mark(self, message: Content, *, phone_number_id: str | None) -> None:
        """Send *message*, a read mark."""


OUTLET: Final[ContextVar[Outlet]] = ContextVar("OUTLET")
"""The outlet of the handler's call that runs in this context."""


def current_outlet() -> Outlet:
    """Return the outlet of the call in progress.

    Raises:
        NoHandlerCall: The code does not run in a call of a handler.
    """
    try:
        return OUTLET.get()
    except LookupError:
        raise NoHandlerCall from None


def text(body: str) -> Content:
    """Return the content of a text message."""
    return {"type": "text", "text": {"body": body}}


def template(
    name: str, language: str, body: Sequence[str], components: Sequence[Content]
) -> Content:
    """Return the content of a template; *body* has the texts of the parameters of its body.

    Raises:
        TypeError: *body* is a single text, which would become a parameter for each character.
    """
    if isinstance(body, str):
        raise TypeError("the body of a template is a list of texts, not a text")
    parameters = [{"type": "text", "text": each} for each in body]
    filled = [{"type": "body", "parameters": parameters}] if parameters else []
    content: dict[str, object] = {"name": name, "language": {"code": language}}
    if found := [*filled, *components]:
        content["components"] = found
    return {"type": "template", "template": content}


def read_mark(message_id: str, *, typing: bool) -> Content:
    """Return the request that marks a message as read."""
    mark: Content = {"status": "read", "message_id": message_id}
    return {**mark, "typing_indicator": {"type": "text"}} if typing else mark
