"""The send of one message: the service window, the call of Graph, and the record of the message."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import msgspec

from wats.clock import Now, utc_now
from wats.errors import GraphError
from wats.graph.client import GraphClient
from wats.log import Log
from wats.outbound import answers
from wats.outbound.failures import report_graph_failure
from wats.outbound.messages import Outgoing
from wats.outbound.window import WindowGuard
from wats.store.records import Direction, MessageRecord
from wats.telemetry import EndpointFamily, Outcome, Telemetry

Endpoint: TypeAlias = Literal["messages", "marketing_messages"]
"""An endpoint of a business number that sends messages, by its last path segment."""


class Transmission(msgspec.Struct, frozen=True):
    """A request to Graph: its JSON, number and endpoint, and the message, if it is one."""

    payload: bytes
    phone_number_id: str
    endpoint: Endpoint
    message: Outgoing | None


class Transmitter:
    """Sends messages, each call once.

    Args:
        graph: The client of Graph.
        telemetry: Records the outcome of each call.
        log: Receives failures. It must not raise.
        own_graphs: The clients of numbers with an access token of their own, by phone number id.
        guard: Refuses messages outside of the service window, if given.
        now: The clock.
    """

    def __init__(
        self,
        graph: GraphClient,
        *,
        telemetry: Telemetry,
        log: Log,
        own_graphs: Mapping[str, GraphClient] = MappingProxyType({}),
        guard: WindowGuard | None = None,
        now: Now = utc_now,
    ) -> None:
        self._graph = graph
        self._own_graphs = own_graphs
        self._telemetry = telemetry
        self._log = log
        self._guard = guard
        self._now = now

    async def check_window(self, send: Transmission) -> None:
        """Refuse a message outside of the service window, if the guard is on.

        Raises:
            WindowClosed: The window is certainly closed.
        """
        if self._guard is not None and send.message is not None:
            await self._guard.check(send.message, send.phone_number_id)

    async def send(self, send: Transmission) -> Any:
        """Call Graph, and return the payload of its response.

        Raises:
            GraphError: See `GraphClient.call`.
        """
        message = send.message
        outcome = Outcome.ERROR
        try:
            graph = self._own_graphs.get(send.phone_number_id, self._graph)
            answer = await graph.call(
                EndpointFamily.MESSAGES,
                "POST",
                (send.phone_number_id, send.endpoint),
                payload=send.payload,
            )
            outcome = Outcome.SUCCESS
        except GraphError as error:
            names: Mapping[str, str] | None = message.names if message is not None else None
            report_graph_failure(error, telemetry=self._telemetry, log=self._log, names=names)
            raise
        finally:
            if message is not None:
                self._telemetry.messages.send_outcome(EndpointFamily.MESSAGES, outcome)
        return answer.payload

    def record_of(self, answer: Any, send: Transmission) -> MessageRecord | None:
        """Return the record of a sent message; `None` without an id, or if it is not a message."""
        message = send.message
        wamid = answers.message_id(answer)
        if message is None or wamid is None:
            return None
        now = self._now()
        return MessageRecord(
            phone_number_id=send.phone_number_id,
            wa_message_id=wamid,
            direction=Direction.OUTBOUND,
            to_phone=message.recipient,
            type=message.type,
            status=answers.message_status(answer),
            graph_message_id=wamid,
            created_at=now,
            updated_at=now,
        )
