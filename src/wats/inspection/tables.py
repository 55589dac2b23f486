"""The parts of a service's metrics for a terminal. No I/O."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from wats.inspection.samples import Samples
from wats.telemetry.contract.families import (
    AUTH_FAILURES,
    DISPATCHES,
    GRAPH_DURATION,
    GRAPH_OPERATIONS,
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    INBOX_DEPTH,
    INBOX_OLDEST_AGE,
    MESSAGE_DELIVERY,
    MESSAGES_FINAL,
    PERSISTENCE_OPERATIONS,
    SEND_OUTCOMES,
    SINK_FAILURES,
    STORE_DURATION,
    WEBHOOK_NORMALIZATION,
    WEBHOOK_REJECTIONS,
    WORKER_PROCESSES,
    Family,
)
from wats.telemetry.contract.values import FinalOutcome, InboxState, Outcome, StatusClass
from wats.web.ops.status import InboxView, OutboxCounts

Count: TypeAlias = Callable[[Samples], float]
Quantile: TypeAlias = Callable[[Samples], float | None]


@dataclass(frozen=True, slots=True)
class Tally:
    """A cell with a rate; one that *alarms* should stay at 0."""

    count: Count
    alarms: bool = True


@dataclass(frozen=True, slots=True)
class Timing:
    """A cell with a duration, and the first and last bound of its buckets."""

    quantile: Quantile
    bottom: float
    top: float


Cell: TypeAlias = Tally | Timing | None


@dataclass(frozen=True, slots=True)
class Row:
    """A line about one series."""

    label: str
    count: Count
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Lines about one part of the service; *hidden* is the number of lines left out."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class Fact:
    """A number with a label, and whether it needs attention."""

    text: str
    value: float
    is_bad: bool = False
    is_duration: bool = False


def sections(samples: Samples) -> list[Table]:
    """Return the tables of all counts in *samples*."""
    made = (_requests, _updates, _handlers, _graph, _messages, _store)
    return [section for section in (make(samples) for make in made) if section.rows]


_BAD_STATES: Final = (InboxState.DEAD, InboxState.ORPHANED)


def inbox(samples: Samples, view: InboxView | None) -> list[Fact]:
    """Return the pending deliveries in *view*; of an earlier version, those that it exposes."""
    if view is not None:
        depths = {state.value: float(getattr(view, state)) for state in InboxState}
        oldest: float | None = view.oldest_seconds
    else:
        depths = samples.split(INBOX_DEPTH.name, "state")
        is_known = samples.has(INBOX_OLDEST_AGE.name)
        oldest = samples.total(INBOX_OLDEST_AGE.name) if is_known else None
    facts = [Fact(state, depths[state], state in _BAD_STATES) for state in depths]
    return facts if oldest is None else [*facts, Fact("oldest", oldest, is_duration=True)]


def outbox(view: OutboxCounts | None) -> list[Fact]:
    """Return the messages that are sent later; an earlier version does not report them."""
    if view is None:
        return []
    return [
        Fact("pending", view.pending),
        Fact("processing", view.processing),
        Fact("dead", view.dead, is_bad=True),
        Fact("orphaned", view.orphaned, is_bad=True),
        Fact("oldest", view.oldest_seconds, is_duration=True),
    ]


def others(latest: Samples, counted: Samples) -> list[Fact]:
    """Return further facts, if the service exposes them; *counted* is the increase of events."""
    facts = [
        Fact(text, counted.total(family.name), is_bad=True)
        for family, text in _COUNTED.items()
        if latest.has(family.name)
    ]
    if latest.has(WORKER_PROCESSES.name):
        facts.insert(0, Fact("workers", latest.total(WORKER_PROCESSES.name)))
    return facts


_COUNTED: Final = {
    WEBHOOK_REJECTIONS: "rejected webhooks",
    AUTH_FAILURES: "auth failures",
    SINK_FAILURES: "sink failures",
}


def _requests(samples: Samples) -> Table:
    rows = (
        Row(
            route,
            _total(HTTP_REQUESTS, route=route),
            (
                _quiet(HTTP_REQUESTS, route=route, status_class=StatusClass.CLIENT_ERROR),
                _alarm(HTTP_REQUESTS, route=route, status_class=StatusClass.SERVER_ERROR),
                *_timings(HTTP_REQUEST_DURATION, route=route),
            ),
        )
        for route in _seen(samples, HTTP_REQUESTS, "route")
    )
    return Table("Requests", ("4xx", "5xx", "p50", "p99"), tuple(rows))


def _updates(samples: Samples) -> Table:
    rows = (
        Row(
            kind,
            _total(WEBHOOK_NORMALIZATION, update_kind=kind),
            (
                _alarm(WEBHOOK_NORMALIZATION, update_kind=kind, outcome=Outcome.ERROR),
                _quiet(WEBHOOK_NORMALIZATION, update_kind=kind, outcome=Outcome.DEDUPED),
                _quiet(WEBHOOK_NORMALIZATION, update_kind=kind, outcome=Outcome.SKIPPED),
            ),
        )
        for kind in _seen(samples, WEBHOOK_NORMALIZATION, "update_kind")
    )
    return Table("Updates", ("failed", "deduped", "skipped"), tuple(rows))


def _handlers(samples: Samples) -> Table:
    rows = (
        Row(
            target,
            _total(DISPATCHES, target=target),
            (_alarm(DISPATCHES, target=target, outcome=Outcome.ERROR),),
        )
        for target in _seen(samples, DISPATCHES, "target")
    )
    return Table("Handlers", ("failed",), tuple(rows))


def _graph(samples: Samples) -> Table:
    has_timings = samples.has(f"{GRAPH_DURATION.name}_count")
    rows = (
        Row(
            endpoint,
            _total(GRAPH_OPERATIONS, endpoint_family=endpoint),
            (
                *(
                    _alarm(GRAPH_OPERATIONS, endpoint_family=endpoint, status_class=each)
                    for each in (StatusClass.CLIENT_ERROR, StatusClass.SERVER_ERROR)
                ),
                *(_timings(GRAPH_DURATION, endpoint_family=endpoint) if has_timings else ()),
            ),
        )
        for endpoint in _seen(samples, GRAPH_OPERATIONS, "endpoint_family")
    )
    heads = ("4xx", "5xx", "p50", "p99") if has_timings else ("4xx", "5xx")
    return Table("Graph", heads, tuple(rows))


def _messages(samples: Samples) -> Table:
    sent = _alarm(SEND_OUTCOMES, outcome=Outcome.ERROR)
    failed = _alarm(MESSAGES_FINAL, outcome=FinalOutcome.FAILED)
    rows = {
        "accepted by Meta": (_total(SEND_OUTCOMES, outcome=Outcome.SUCCESS), (sent,)),
        "delivered": (
            _total(MESSAGES_FINAL, outcome=FinalOutcome.DELIVERED),
            (failed, None, *_timings(MESSAGE_DELIVERY)),
        ),
        "read": (_total(MESSAGES_FINAL, outcome=FinalOutcome.READ), ()),
    }
    happened = {
        label: Row(label, count, cells)
        for label, (count, cells) in rows.items()
        if count(samples) or any(_has_happened(cell, samples) for cell in cells)
    }
    heads = ("failed", "", "p50", "p99") if "delivered" in happened else ("failed",)
    return Table("Messages", heads, tuple(happened.values()))


def _store(samples: Samples) -> Table:
    has_timings = samples.has(f"{STORE_DURATION.name}_count")
    rows = (
        Row(
            adapter,
            _total(PERSISTENCE_OPERATIONS, adapter=adapter),
            (
                _alarm(PERSISTENCE_OPERATIONS, adapter=adapter, outcome=Outcome.ERROR),
                *((None, *_timings(STORE_DURATION, adapter=adapter)) if has_timings else ()),
            ),
        )
        for adapter in _seen(samples, PERSISTENCE_OPERATIONS, "adapter")
    )
    return Table("Store", ("failed", "", "p50", "p99") if has_timings else ("failed",), (*rows,))


def _seen(samples: Samples, family: Family, label: str) -> Iterable[str]:
    """Return the values of *label* with a count above 0."""
    return [value for value, count in samples.split(family.name, label).items() if count]


def _has_happened(cell: Cell, samples: Samples) -> bool:
    return isinstance(cell, Tally) and cell.count(samples) > 0


def _total(family: Family, **labels: str) -> Count:
    return lambda samples: samples.total(family.name, **labels)


def _alarm(family: Family, **labels: str) -> Tally:
    return Tally(_total(family, **labels))


def _quiet(family: Family, **labels: str) -> Tally:
    return Tally(_total(family, **labels), alarms=False)


def _timings(family: Family, **labels: str) -> tuple[Timing, Timing]:
    def timing(share: float) -> Timing:
        return Timing(
            lambda samples: samples.quantile(share, family.name, **labels),
            bottom=family.buckets[0],
            top=family.buckets[-1],
        )

    return timing(0.5), timing(0.99)
