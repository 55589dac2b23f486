"""The series that a family can have, and those that it has from the start. No I/O."""

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Final, TypeAlias

from wats.telemetry.contract.labels import FAILURES, OPERATION, Label, Subjects, Values
from wats.telemetry.contract.values import (
    UNMATCHED,
    Adapter,
    EndpointFamily,
    ErrorCategory,
    FinalOutcome,
    Method,
    OutboxState,
    Outcome,
    StatusClass,
    StoreOperation,
)

Series: TypeAlias = Callable[[Subjects], Iterable[Values]]
"""Some series of a family."""

ENDED: Final = (Outcome.SUCCESS, Outcome.ERROR)
"""The outcomes that every operation can have."""

KNOWN_ENDPOINTS: Final = tuple(f for f in EndpointFamily if f is not EndpointFamily.UNKNOWN)
"""The endpoint families of Graph."""

_REFUSED = (StatusClass.REDIRECTION, StatusClass.CLIENT_ERROR, StatusClass.SERVER_ERROR)
_FAILED = (StatusClass.CLIENT_ERROR, StatusClass.SERVER_ERROR, StatusClass.UNKNOWN)
_ANSWERED = (StatusClass.SUCCESS, StatusClass.CLIENT_ERROR, StatusClass.SERVER_ERROR)


def all_of(*labels: Label) -> Series:
    """Return every combination of the values of *labels*."""
    return lambda _: product(*(label.values for label in labels))


def possible_requests(subjects: Subjects) -> Iterable[Values]:
    """Return the series of `http_requests_total`."""
    # No response of ours is a redirection, and only methods that a route serves reach its handler.
    for route in subjects.routes:
        served = (*route.methods, Method.UNKNOWN)
        yield from product(Method, (route.template,), (StatusClass.CLIENT_ERROR,))
        yield from product(served, (route.template,), _FAILED)
        yield from product(route.methods, (route.template,), (StatusClass.SUCCESS,))


def possible_durations(subjects: Subjects) -> Iterable[Values]:
    """Return the series of `http_request_duration_seconds`."""
    for route in subjects.routes:
        yield from product(
            (route.template,),
            _ANSWERED if route.methods else (),
        )
        yield from product((route.template,), _FAILED)


def initial_requests(subjects: Subjects) -> Iterable[Values]:
    """Return the series of `http_requests_total` that alerts use."""
    for route in subjects.routes:
        yield from product(route.methods, (route.template,), _ANSWERED)
    yield (Method.GET, UNMATCHED, StatusClass.CLIENT_ERROR)


def initial_durations(subjects: Subjects) -> Iterable[Values]:
    """Return the series of `http_request_duration_seconds` that dashboards use."""
    for route in subjects.routes:
        yield (route.template, StatusClass.SUCCESS if route.methods else StatusClass.CLIENT_ERROR)


def possible_graph(_: Subjects) -> Iterable[Values]:
    """Return the series of `graph_operations_total`."""
    # A call is a success if and only if the status was 2xx.
    yield from product(EndpointFamily, (Outcome.SUCCESS,), (StatusClass.SUCCESS,))
    yield from product(EndpointFamily, (Outcome.ERROR,), (*_REFUSED, StatusClass.UNKNOWN))


def initial_graph(_: Subjects) -> Iterable[Values]:
    """Return the series of `graph_operations_total` that alerts use."""
    yield from product(KNOWN_ENDPOINTS, (Outcome.SUCCESS,), (StatusClass.SUCCESS,))
    yield from product(KNOWN_ENDPOINTS, (Outcome.ERROR,), _FAILED)


def adapters(subjects: Subjects) -> Sequence[str]:
    """Return the values of `adapter`: that of the store, and `unknown`."""
    return tuple(dict.fromkeys((subjects.adapter or Adapter.UNKNOWN, Adapter.UNKNOWN)))


def possible_store(subjects: Subjects) -> Iterable[Values]:
    """Return the series of `persistence_operations_total`."""
    return product(adapters(subjects), Outcome)


def possible_store_durations(subjects: Subjects) -> Iterable[Values]:
    """Return the series of `wats_store_operation_duration_seconds`."""
    yield from product(adapters(subjects)[:1], StoreOperation)
    yield (Adapter.UNKNOWN, OPERATION.other)


def possible_outbox(subjects: Subjects) -> Iterable[Values]:
    """Return the series of `outbox_depth`."""
    return product(adapters(subjects), OutboxState)


def final_statuses(_: Subjects) -> Iterable[Values]:
    """Return the series of `wats_messages_final_total`: only a failed message has a category."""
    yield from product(FAILURES, (FinalOutcome.FAILED,))
    came = (outcome for outcome in FinalOutcome if outcome is not FinalOutcome.FAILED)
    yield from product((ErrorCategory.NONE,), came)
