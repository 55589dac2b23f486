"""The API of the outbox: the state of a message that is sent later."""

from http import HTTPStatus

import msgspec

from wats.errors import (
    IdempotencyInFlight,
    OutboxItemNotFound,
    StoreError,
    StoreNotConfigured,
    StoreUnavailable,
)
from wats.outbound.accept import RETRY_AFTER_SECONDS, Accepted, Queued
from wats.outbound.items import obstacle
from wats.store.outbox import SendState, SendView
from wats.store.records import is_cursor
from wats.telemetry.contract.values import Method
from wats.web.bodies import Body, Count
from wats.web.exchange import Headers, Request, Response, json_response
from wats.web.parts import Parts
from wats.web.routing import NUMBER_PARAMETER, NUMBERS_ROOT, Operation, Posture, Route

_REPLAYED: Headers = ((b"idempotency-replayed", b"true"),)
_APPLIED: Headers = ((b"preference-applied", b"respond-async"),)


class OutboxItem(Body, frozen=True):
    """The state of a message in the outbox.

    `error` is the class of the last error, or `NumberNotConfigured` while the message waits for the
    configuration of its business number. `response` is Meta's response once the message is sent,
    as the response to a request that waits for it would be. `attempts` is `null` from then on.
    """

    id: str
    state: SendState
    attempts: Count | None
    error: str | None
    response: msgspec.Raw | None


def sent(accepted: Accepted) -> Response:
    """Return the response to a message that Meta accepted."""
    return Response(HTTPStatus.OK, accepted.body, headers=_REPLAYED if accepted.replayed else ())


async def later(parts: Parts, request: Request, queued: Queued | Accepted) -> Response:
    """Return the response to a message that is sent later, or was sent while its caller waited.

    Raises:
        IdempotencyInFlight: The item was deleted meanwhile.
        StoreError: There is no store, or it cannot be read.
    """
    if isinstance(queued, Accepted):
        return sent(queued)
    number = parts.numbers[request.number].id
    is_of_number = NUMBER_PARAMETER in request.parameters or number != parts.numbers.default.id
    view = SendView(id=queued.outbox_id, phone_number_id=number, state=SendState.QUEUED, attempts=0)
    if queued.replayed:
        try:
            view = await _view(parts, request, queued.outbox_id)
        except OutboxItemNotFound:
            # An operator discarded the item after its key was read: a retry is stored as new.
            raise IdempotencyInFlight(RETRY_AFTER_SECONDS) from None
    prefix = parts.profile.service.api_prefix
    if is_of_number:
        prefix = f"{prefix}/{NUMBERS_ROOT}/{number}"
    path = f"{prefix}/outbox/{queued.outbox_id}"
    location: Headers = ((b"location", path.encode()),)
    headers = (*location, *_APPLIED, *(_REPLAYED if queued.replayed else ()))
    return json_response(_item(parts, view), HTTPStatus.ACCEPTED, headers)


async def get_item(parts: Parts, request: Request) -> Response:
    """Return the state of one item."""
    text = request.parameters["outboxId"]
    if not is_cursor(text):
        raise OutboxItemNotFound
    return json_response(_item(parts, await _view(parts, request, int(text))))


async def _view(parts: Parts, request: Request, outbox_id: int) -> SendView:
    """Return the item *outbox_id*, if it belongs to a number of *request*.

    Raises:
        OutboxItemNotFound: There is none.
        StoreError: There is no store, or it cannot be read.
    """
    if parts.store is None:
        raise StoreNotConfigured("The outbox requires a persistence store.")
    try:
        view = await parts.store.get_send(outbox_id)
    except StoreError as error:
        raise StoreUnavailable from error
    if view is None or request.number not in {None, view.phone_number_id}:
        raise OutboxItemNotFound
    return view


def _item(parts: Parts, view: SendView) -> OutboxItem:
    return OutboxItem(
        id=str(view.id),
        state=view.state,
        attempts=view.attempts,
        error=obstacle(view.state, view.phone_number_id, parts.numbers.ids) or view.error,
        response=msgspec.Raw(view.response) if view.response else None,
    )


def routes(prefix: str) -> tuple[Route, ...]:
    """Return the route of the outbox below *prefix*; it shares the label of a message."""
    one = Operation(
        Method.GET,
        get_item,
        "getOutboxItem",
        "Return the state of a message that is sent later.",
        OutboxItem,
        problems=(404,),
    )
    label = f"{prefix}/messages/:id"
    return (Route(f"{prefix}/outbox/:outboxId", label, Posture.API, "messages", (one,)),)
