"""The customer service window: whether a customer can be sent a free-form message."""

from datetime import datetime
from http import HTTPStatus

from wats.clock import to_iso
from wats.errors import MalformedRequest, RouteNotFound, StoreError, StoreNotConfigured
from wats.outbound.messages import is_phone
from wats.outbound.window import WINDOW, remaining_ms
from wats.telemetry.contract.values import Method
from wats.web.bodies import Body, Count, Moment
from wats.web.exchange import Request, Response, json_response
from wats.web.parts import Parts
from wats.web.problems import problem
from wats.web.routing import Operation, Posture, Route, decode_segment


class WindowView(Body, frozen=True):
    """A customer's service window, computed from the messages that this gateway received."""

    open: bool
    last_inbound_at: Moment | None
    expires_at: Moment | None
    remaining_ms: Count


async def window(parts: Parts, request: Request) -> Response:
    """Return whether a customer's window with the number of the request is open.

    Meta decides: it sometimes closes a window that our clock considers open.
    """
    if parts.store is None:
        raise StoreNotConfigured("Conversation window state requires a persistence store.")
    customer = _customer_of(request)
    try:
        last = await parts.store.last_inbound_at(
            phone_number_id=parts.numbers[request.number].id, customer=customer
        )
    except StoreError as error:
        parts.telemetry.errors.record(error)
        return problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "conversation_window_unavailable",
            "Conversation window state could not be computed.",
        )
    return json_response(window_at(parts.now(), last))


def window_at(now: datetime, last_inbound_at: datetime | None) -> WindowView:
    """Return the window that a message at *last_inbound_at* opened, in its state at *now*."""
    if last_inbound_at is None:
        return WindowView(open=False, last_inbound_at=None, expires_at=None, remaining_ms=0)
    remaining = remaining_ms(now, last_inbound_at)
    return WindowView(
        open=remaining > 0,
        last_inbound_at=to_iso(last_inbound_at),
        expires_at=to_iso(last_inbound_at + WINDOW),
        remaining_ms=remaining,
    )


def _customer_of(request: Request) -> str:
    segment = request.parameters["phone"]
    if not segment:
        raise RouteNotFound
    phone = decode_segment(segment)
    if phone is None:
        raise MalformedRequest("malformed_path", "phone path segment is invalid.")
    if not is_phone(phone):
        raise MalformedRequest(
            "malformed_path",
            "phone must be digits with an optional leading +, 1..15 characters.",
        )
    return phone.removeprefix("+")


def routes(prefix: str) -> tuple[Route, ...]:
    """Return the routes of conversations below *prefix*."""
    read = Operation(
        Method.GET,
        window,
        "getWindow",
        "Return whether a customer's service window is open.",
        WindowView,
        problems=(400, 404),
    )
    path = f"{prefix}/conversations/*phone/window"
    label = f"{prefix}/conversations/:phone/window"
    return (Route(path, label, Posture.API, "conversations", (read,)),)
