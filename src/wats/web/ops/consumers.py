"""Consumers: their backlogs, and pauses."""

from typing import Final, Literal

from wats.errors import ConsumerNotFound
from wats.store.admin import ConsumerState
from wats.telemetry.contract.values import Method
from wats.web.bodies import Body, Count
from wats.web.exchange import Request, Response, json_response
from wats.web.inputs import read_body, store_of
from wats.web.ops.audit import log_action
from wats.web.parts import Parts
from wats.web.routing import Operation, Posture, Route, decode_segment

_MALFORMED: Final = "The body must hold 'paused': true or false."


class ConsumerView(Body, frozen=True):
    """A consumer and its deliveries.

    `state` is `orphaned` for a consumer that is not in the config. `oldestSeconds` is the age of
    the oldest outstanding delivery.
    """

    name: str
    state: Literal["active", "paused", "orphaned"]
    pending: Count
    leased: Count
    retry: Count
    dead: Count
    oldest_seconds: float


class ConsumerList(Body, frozen=True):
    """All registered consumers, ordered by name."""

    items: tuple[ConsumerView, ...]


class ConsumerChange(Body, frozen=True):
    """Whether the consumer shall be paused."""

    paused: bool


class PauseView(Body, frozen=True):
    """Whether a consumer is paused now."""

    name: str
    paused: bool


async def list_consumers(parts: Parts, request: Request) -> Response:
    """Return all consumers."""
    found = await store_of(parts).consumers()
    return json_response(ConsumerList(items=tuple(map(_view, found))))


async def change(parts: Parts, request: Request) -> Response:
    """Pause or resume a consumer; its deliveries are kept."""
    store = store_of(parts)
    asked = await read_body(request, ConsumerChange, _MALFORMED)
    name = decode_segment(request.parameters["consumer"])
    if name is None or not await store.pause(name, is_paused=asked.paused):
        raise ConsumerNotFound
    log_action(parts, "consumer_paused" if asked.paused else "consumer_resumed", 1)
    return json_response(PauseView(name=name, paused=asked.paused))


def _view(consumer: ConsumerState) -> ConsumerView:
    depth = consumer.depth
    return ConsumerView(
        name=consumer.name,
        state=_state(consumer),
        pending=depth.pending,
        leased=depth.leased,
        retry=depth.retry,
        dead=depth.dead,
        oldest_seconds=consumer.oldest_seconds,
    )


def _state(consumer: ConsumerState) -> Literal["active", "paused", "orphaned"]:
    if not consumer.is_configured:
        return "orphaned"
    return "paused" if consumer.is_paused else "active"


def routes(admin: str) -> tuple[Route, ...]:
    """Return the routes of consumers below *admin*."""
    listing = Operation(
        Method.GET,
        list_consumers,
        "listConsumers",
        "List consumers with the depth and age of their deliveries.",
        ConsumerList,
    )
    changing = Operation(
        Method.POST,
        change,
        "changeConsumer",
        "Pause a consumer, which then gets no deliveries, or resume it.",
        PauseView,
        body=ConsumerChange,
        problems=(400,),
    )
    path = f"{admin}/consumers"
    one = f"{path}/:consumer"
    return (
        Route(path, admin, Posture.ADMIN, "admin", (listing,)),
        Route(one, admin, Posture.ADMIN, "admin", (changing,)),
    )
