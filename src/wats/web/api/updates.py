"""Updates for applications that poll: lease some, and acknowledge them."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Annotated, Any, Final

from msgspec import Meta
from typing_extensions import override

from wats.errors import ConsumerNotFound
from wats.inbound.pullers import Acknowledgement, AckResult, Kinds, Pulled, Puller
from wats.inbound.receipts import MAX_CHARACTERS
from wats.subscribers.requests import SubscriberUpdate, body_of
from wats.telemetry.contract.values import Method, UpdateKind
from wats.web.bodies import Body, Count
from wats.web.exchange import (
    BodySource,
    ClientGone,
    Request,
    Response,
    StreamedResponse,
    json_response,
)
from wats.web.inputs import check_query, invalid, limit_of, read_body, store_of
from wats.web.parts import Parts
from wats.web.routing import Operation, Parameter, Posture, Route, shared_label

MAX_WAIT_SECONDS: Final = 60
DEFAULT_WAIT_SECONDS: Final = 30
DEFAULT_LIMIT: Final = 10
MAX_ACKNOWLEDGED: Final = 100
LONGEST_RETRY_SECONDS: Final = 3600

_PIECE_BYTES: Final = 16 * 1024
"""The response is written in pieces, so that a client that is gone is noticed before its end."""

_WAIT: Final = re.compile("[0-9]|[1-5][0-9]|60")

_PARAMETERS: Final = (
    Parameter("consumer", "query", {"type": "string"}, required=True),
    Parameter("kinds", "query", {"type": "string", "pattern": "^[A-Za-z]+(,[A-Za-z]+)*$"}),
    Parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 100, "default": 10}),
    Parameter("wait", "query", {"type": "integer", "minimum": 0, "maximum": 60, "default": 30}),
)
_NAMES: Final = frozenset(parameter.name for parameter in _PARAMETERS)

_MALFORMED: Final = (
    "The body must hold 'updates': 1 to 100 objects with 'receipt' and maybe 'retry', which is "
    "true, false or a number of seconds from 0 to 3600."
)


class PulledUpdate(Body, frozen=True):
    """A leased update. `attempt` is 1 unless it was leased before."""

    receipt: str
    attempt: Count
    update: SubscriberUpdate


class PulledUpdates(Body, frozen=True):
    """Leased updates, of different conversations, the oldest first; none after the wait."""

    updates: tuple[PulledUpdate, ...]


class UpdateAck(Body, frozen=True):
    """The end of an update: it was handled, unless `retry` is given.

    `retry` is `true` for a failed attempt, after which wats retries with backoff until the update
    is a dead letter; or the seconds of a pause, for which no attempt is counted.
    """

    receipt: Annotated[str, Meta(max_length=MAX_CHARACTERS)]
    retry: bool | Annotated[float, Meta(ge=0, le=LONGEST_RETRY_SECONDS)] = False


class UpdateAcks(Body, frozen=True):
    """The ends of updates."""

    updates: Annotated[tuple[UpdateAck, ...], Meta(min_length=1, max_length=MAX_ACKNOWLEDGED)]


class UpdateAckView(Body, frozen=True):
    """The result for an update: `done`, `retry`, `dead`, `lease_lost` or `invalid_receipt`."""

    result: AckResult


class UpdateAckViews(Body, frozen=True):
    """The results, in the order of the request."""

    updates: tuple[UpdateAckView, ...]


async def poll(parts: Parts, request: Request) -> Response:
    """Lease updates of a puller, and wait for the first one."""
    store_of(parts)
    puller, limit, wait, kinds = _polled(parts, request)
    pulled = await _unless_gone(request, puller, puller.poll(limit, wait, kinds))
    if not pulled:
        return json_response(PulledUpdates(updates=()))
    content = PulledUpdates(
        updates=tuple(
            PulledUpdate(
                receipt=parts.receipts.issue(puller.lease_of(each)),
                attempt=each.delivery.attempt,
                update=body_of(each.update),
            )
            for each in pulled
        )
    )
    body = json_response(content).body
    source = _Unsettled(body, lambda: puller.give_back([each.delivery for each in pulled]))
    return StreamedResponse(200, source=source, length=len(body))


def _polled(parts: Parts, request: Request) -> tuple[Puller, int, int, Kinds]:
    """Return the puller, and the arguments of its poll, that the query asks for.

    Raises:
        MalformedRequest: A parameter is unknown or invalid.
        ConsumerNotFound: There is no such puller.
    """
    check_query(request, _NAMES)
    query = request.query
    limit = limit_of(request, DEFAULT_LIMIT)
    wait = query.get("wait", str(DEFAULT_WAIT_SECONDS))
    if _WAIT.fullmatch(wait) is None:
        raise invalid("wait", f"must be an integer from 0 to {MAX_WAIT_SECONDS}")
    kinds = set(filter(None, query.get("kinds", "").split(",")))
    if not kinds <= set(UpdateKind):
        raise invalid("kinds", "must be kinds of updates, separated by commas")
    if "consumer" not in query:
        raise invalid("consumer", "must be the name of a puller in the config")
    puller = parts.pullers.get(query["consumer"])
    if puller is None:
        raise ConsumerNotFound("The config has no puller with this name.")
    return puller, limit, int(wait), frozenset(map(UpdateKind, kinds))


async def _unless_gone(
    request: Request, puller: Puller, poll: Coroutine[Any, Any, Sequence[Pulled]]
) -> Sequence[Pulled]:
    """Run *poll*, and end it without a lease when the client hangs up.

    Raises:
        ClientGone: It hung up.
    """
    request.watch_hang_up()
    gone = asyncio.create_task(request.disconnected())
    polling = asyncio.create_task(poll)
    is_used = False
    try:
        await asyncio.wait({gone, polling}, return_when=asyncio.FIRST_COMPLETED)
        if polling.done():
            await asyncio.sleep(0)  # for a disconnect that is noticed at the same moment
        if gone.done():
            gone.result()
            raise ClientGone
        is_used = True
        return polling.result()
    finally:
        gone.cancel()
        if not is_used:
            puller.abandon(polling)


class _Unsettled(BodySource):
    """The body of a response with leased updates, which are released if it cannot be written."""

    def __init__(self, body: bytes, give_back: Callable[[], None]) -> None:
        self._body = body
        self._give_back = give_back
        self._is_over = False

    @override
    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), _PIECE_BYTES):
            yield self._body[start : start + _PIECE_BYTES]
        self._is_over = True

    @override
    def close(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._give_back()


async def acknowledge(parts: Parts, request: Request) -> Response:
    """Settle leased updates."""
    store_of(parts)
    asked = await read_body(request, UpdateAcks, _MALFORMED)
    given: list[Acknowledgement | None] = []
    for each in asked.updates:
        leased = parts.receipts.read(each.receipt)
        given.append(None if leased is None else Acknowledgement(leased, each.retry))
    results = await parts.pullers.acknowledge(given)
    return json_response(UpdateAckViews(updates=tuple(map(UpdateAckView, results))))


def routes(prefix: str) -> tuple[Route, ...]:
    """Return the routes of updates below *prefix*."""
    path, label = f"{prefix}/updates", shared_label(prefix)
    polling = Operation(
        Method.GET,
        poll,
        "pollUpdates",
        "Lease updates of a puller, and wait for the first one.",
        PulledUpdates,
        parameters=_PARAMETERS,
        problems=(400, 404, 429),
    )
    acknowledging = Operation(
        Method.POST,
        acknowledge,
        "acknowledgeUpdates",
        "Settle leased updates, or ask for a retry.",
        UpdateAckViews,
        body=UpdateAcks,
        problems=(400,),
    )
    return (
        Route(path, label, Posture.API, "updates", (polling,)),
        Route(f"{path}/ack", label, Posture.API, "updates", (acknowledging,)),
    )
