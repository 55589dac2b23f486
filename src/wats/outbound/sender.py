"""Messages of the process itself: checked and accepted like those of the HTTP API."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from wats.errors import IdempotencyOutcomeUnknown, MalformedRequest
from wats.outbound import answers
from wats.outbound.accept import Accepted, Acceptor, SendRequest
from wats.outbound.messages import (
    GRAPH_MALFORMED,
    Outgoing,
    parse_graph_message,
    with_line_feeds,
)
from wats.outbound.pacing import REPLY_SECONDS
from wats.sends import Reply, Sent

# A key is the same for requests to the HTTP API and for the application.
SCOPE: Final = "/messages"
_REPLY_SCOPE: Final = "/replies"


class MessageSender:
    """Sends the messages of handlers and of the application.

    Args:
        acceptor: The outbound transaction.
        keeps_keys: Whether there is a store for idempotency keys. Without one, each reply is sent
            when a handler sends it: a handler is then called once for each update.
        retry_seconds: How long a handler can be retried, which the keys of its replies outlive.
        groups_enabled: Whether messages may be sent to groups.
    """

    def __init__(
        self,
        acceptor: Acceptor,
        *,
        keeps_keys: bool,
        retry_seconds: float,
        groups_enabled: bool,
    ) -> None:
        self._acceptor = acceptor
        self._keeps_keys = keeps_keys
        self._retry_seconds = retry_seconds
        self._groups_enabled = groups_enabled

    async def send(
        self,
        message: Mapping[str, object],
        idempotency_key: str | None,
        phone_number_id: str | None = None,
    ) -> Sent:
        """Send *message*, in Graph's format, or return the result of an earlier send.

        Without *phone_number_id*, the default number sends it.

        Raises:
            WatsError: As for `Acceptor.accept`; or MalformedRequest if the message is not valid.
        """
        request = self._request_of(message, idempotency_key, phone_number_id)
        return _sent(await self._acceptor.accept(request))

    async def send_later(
        self,
        message: Mapping[str, object],
        idempotency_key: str | None,
        phone_number_id: str | None = None,
    ) -> Sent:
        """Store *message* in the outbox, or return the result of an earlier send.

        Raises:
            WatsError: As for `Acceptor.accept_later`; or MalformedRequest if the message is not
                valid, or marks another one as read.
        """
        request = self._request_of(message, idempotency_key, phone_number_id)
        queued = await self._acceptor.accept_later(request)
        if isinstance(queued, Accepted):
            return _sent(queued)
        return Sent(
            message_id=None,
            is_replayed=queued.replayed,
            is_certain=False,
            outbox_id=str(queued.outbox_id),
        )

    async def reply(self, reply: Reply) -> Sent:
        """Send *reply* once.

        An unknown outcome is an error only in the attempt that causes it: to raise it again in each
        retry would block the conversation until the update is a dead letter.

        Raises:
            WatsError: As for `Acceptor.accept`; or MalformedRequest if the message is not valid.
        """
        key = reply.key if self._keeps_keys else None
        request = msgspec.structs.replace(
            self._request_of(reply.message, key, reply.phone_number_id),
            scope=_REPLY_SCOPE,
            keep_seconds=self._retry_seconds,
            patience_seconds=REPLY_SECONDS,
        )
        try:
            return _sent(await self._acceptor.accept(request))
        except IdempotencyOutcomeUnknown:
            return Sent(message_id=None, is_replayed=True, is_certain=False)

    def _request_of(
        self, message: Mapping[str, object], key: str | None, phone_number_id: str | None
    ) -> SendRequest:
        body, outgoing = encode_message(message, groups_enabled=self._groups_enabled)
        return SendRequest(
            payload=body,
            scope=SCOPE,
            idempotency_key=key,
            request_body=body,
            message=outgoing,
            phone_number_id=phone_number_id,
        )


def encode_message(
    message: Mapping[str, object], *, groups_enabled: bool
) -> tuple[bytes, Outgoing | None]:
    """Return *message* as the JSON for Graph, and its record; `None` if it marks one as read.

    Raises:
        MalformedRequest: The message is not valid; `details` hold every mistake.
    """
    body = _encode(message)
    return body, parse_graph_message(body, groups_enabled=groups_enabled)


def _encode(message: Mapping[str, Any]) -> bytes:
    """Return *message* as JSON, its text with the line ends that Meta accepts.

    Raises:
        MalformedRequest: A value is not valid in JSON.
    """
    content = message.get("text")
    if isinstance(content, Mapping) and isinstance(content.get("body"), str):
        message = {**message, "text": {**content, "body": with_line_feeds(content["body"])}}
    try:
        return msgspec.json.encode({**message, "messaging_product": "whatsapp"})
    except (TypeError, ValueError, RecursionError):
        raise MalformedRequest("malformed_body", GRAPH_MALFORMED) from None


def _sent(accepted: Accepted) -> Sent:
    payload = msgspec.json.decode(accepted.body)
    return Sent(message_id=answers.message_id(payload), is_replayed=accepted.replayed)
