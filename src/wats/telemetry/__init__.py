"""Telemetry: one seam, with one method for each thing that can happen.

Code says what happened in enums and numbers. It goes into the registry first, which `/metrics`
shows, and then to the operator's sink if there is one. No text can pass this seam, so none of a
customer's can; a test reads the signatures and holds that.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from wats.clock import Now, utc_now
from wats.telemetry.exposition import CONTENT_TYPE, Exposition
from wats.telemetry.ledger import ErrorLedger, error_name
from wats.telemetry.registry import Registry
from wats.telemetry.sinks import (
    Attributes,
    AttributeValue,
    FailureLog,
    IsolatedSink,
    Log,
    TelemetrySink,
    write_json_line,
)
from wats.telemetry.vocabulary import (
    GRAPH_OPERATIONS,
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    LATENCY_BUCKETS,
    OTEL_ATTR,
    PERSISTENCE_OPERATIONS,
    SEND_OUTCOMES,
    UNMATCHED,
    WEBHOOK_NORMALIZATION,
    Adapter,
    EndpointFamily,
    Family,
    FamilySet,
    Kind,
    Method,
    Outcome,
    RouteLabel,
    StatusClass,
    StoreOperation,
    Subjects,
    UpdateKind,
    families_of,
    status_class,
)

__all__ = [
    "CONTENT_TYPE",
    "OTEL_ATTR",
    "UNMATCHED",
    "Adapter",
    "AttributeValue",
    "Attributes",
    "EndpointFamily",
    "ErrorLedger",
    "FamilySet",
    "Method",
    "Outcome",
    "RouteLabel",
    "StatusClass",
    "StoreOperation",
    "Telemetry",
    "TelemetrySink",
    "UpdateKind",
    "error_name",
]

_STATUSES: Final = range(100, 600)
_LONGEST_SECONDS: Final = 1e9  # thirty years; whatever is longer is no duration
_LARGEST_COUNT: Final = 1_000_000


class Telemetry:
    """What the rest of wats tells what happened.

    No recording method raises, whatever it is given and whatever the sink does. A value outside a
    closed list is recorded as `unknown`, where the list has none as `error`; a duration that is
    negative, endless or no number, as 0.

    Args:
        routes: The route table. A route is recorded by its place in it; the last entry stands for
            all requests that no route serves, and is `unmatched`.
        adapter: The database of the store, if there is a store.
        sink: The operator's own sink, if there is one.
        families: Which families are exposed.
        error_names: What else than class names the error ledger may show.
        rows: How many worker processes will record; see `use_row`.
        log: Where a failure of telemetry itself is told.
        monotonic: Spaces the lines of that log.
        now: Dates them.

    Raises:
        ConfigError: The sink lacks a method that it must have.
        ValueError: The routes do not end with `unmatched`, or two have the same template.
    """

    def __init__(
        self,
        *,
        routes: Sequence[RouteLabel],
        adapter: Adapter | None,
        sink: TelemetrySink | None = None,
        families: FamilySet = FamilySet.CONTRACT,
        error_names: Collection[str] = (),
        rows: int = 1,
        log: Log = write_json_line,
        monotonic: Callable[[], float] = time.monotonic,
        now: Now = utc_now,
    ) -> None:
        def failures(event: str) -> FailureLog:
            return FailureLog(event, log=log, monotonic=monotonic, now=now)

        self._templates = _checked_templates(routes)
        self._families = families_of(families)
        subjects = Subjects(routes=tuple(routes), adapter=adapter)
        self._registry = Registry(self._families, subjects, rows=rows)
        self._exposition = Exposition(self._registry)
        self._failures = failures("wats.telemetry.error")
        self._sink = (
            None if sink is None else IsolatedSink(sink, failures("wats.telemetry.sink.error"))
        )
        self.errors = ErrorLedger(error_names)
        self._slots = self._registry.slots
        self._prepare_http()
        self._webhooks = self._registry.block(WEBHOOK_NORMALIZATION)
        self._graph = self._registry.block(GRAPH_OPERATIONS)
        self._sends = self._registry.block(SEND_OUTCOMES)
        self._store = self._registry.block(PERSISTENCE_OPERATIONS)

    def _prepare_http(self) -> None:
        """Keep at hand what `http_request` needs to find its slots in a few look-ups."""
        requests = self._registry.block(HTTP_REQUESTS)
        durations = self._registry.block(HTTP_REQUEST_DURATION)
        methods, routes, classes = requests.axes
        self._first_request = requests.offset
        self._first_duration = durations.offset
        self._duration_width = durations.width
        self._methods = methods.steps
        self._other_method = methods.other
        self._routes = {
            ordinal: routes.step(template) for ordinal, template in enumerate(self._templates)
        }
        self._unmatched = routes.other
        self._classes = {status: classes.step(status_class(status)) for status in _STATUSES}
        self._no_class = classes.other

    def http_request(self, route: int, method: Method, status: int, seconds: float) -> None:
        """Record that a request was answered after *seconds*; *status* is 0 if it was not."""
        try:
            # Counter and histogram share their last two labels, and the counter has one slot for
            # each series: where a series is among those two labels holds for both families.
            place = self._routes.get(route, self._unmatched)
            place += self._classes.get(status, self._no_class)
            slots = self._slots
            step = self._methods.get(method, self._other_method)
            slots[self._first_request + step + place] += 1.0
            if not 0.0 <= seconds < _LONGEST_SECONDS:
                seconds = 0.0
            first = self._first_duration + place * self._duration_width
            slots[first + bisect_left(LATENCY_BUCKETS, seconds)] += 1.0
            slots[first + self._duration_width - 1] += seconds
            if self._sink is not None:
                self._tell_http(self._sink, route, method, status, seconds)
        except Exception as error:
            self._failures.report("http_request", error)

    def _tell_http(
        self, sink: IsolatedSink, route: int, method: Method, status: int, seconds: float
    ) -> None:
        template = self._templates[route] if route in self._routes else UNMATCHED
        code = int(status) if status in _STATUSES else 0
        values = (template, method, code, status_class(code))
        attributes = _attributes(HTTP_REQUESTS, values)
        sink.call("increment_counter", HTTP_REQUESTS.name, 1, attributes)
        sink.call("record_histogram", HTTP_REQUEST_DURATION.name, seconds, attributes)

    def webhook_update(self, kind: UpdateKind, outcome: Outcome, count: int = 1) -> None:
        """Record what became of *count* updates, or ignored parts, of a webhook."""
        try:
            count = min(int(count), _LARGEST_COUNT)
            if count > 0:
                slot = self._webhooks.slot(outcome, kind)
                self._count(WEBHOOK_NORMALIZATION, slot, (kind, outcome), count)
        except Exception as error:
            self._failures.report("webhook_update", error)

    def graph_operation(
        self, family: EndpointFamily, status: int, outcome: Outcome, seconds: float
    ) -> None:
        """Record a Graph call that left the process; *status* is 0 if no answer came."""
        try:
            code = int(status) if status in _STATUSES else 0
            answer = status_class(code)
            slot = self._graph.slot(family, outcome, answer)
            self._count(GRAPH_OPERATIONS, slot, (family, code, answer, outcome))
        except Exception as error:
            self._failures.report("graph_operation", error)

    def send_outcome(self, family: EndpointFamily, outcome: Outcome) -> None:
        """Record how the attempt to send one message ended."""
        try:
            slot = self._sends.slot(family, outcome)
            self._count(SEND_OUTCOMES, slot, (family, outcome))
        except Exception as error:
            self._failures.report("send_outcome", error)

    def store_operation(
        self, adapter: Adapter, operation: StoreOperation, outcome: Outcome, seconds: float
    ) -> None:
        """Record a question to the store; this is the `Observe` that a store is opened with."""
        try:
            slot = self._store.slot(adapter, outcome)
            self._count(PERSISTENCE_OPERATIONS, slot, (adapter, outcome))
        except Exception as error:
            self._failures.report("store_operation", error)

    def _count(
        self, family: Family, slot: int, values: tuple[AttributeValue, ...], count: int = 1
    ) -> None:
        """Add *count* to *slot*, then tell the sink, with *values* in the order of its keys."""
        self._slots[slot] += count
        if self._sink is not None:
            attributes = _attributes(family, values)
            self._sink.call("increment_counter", family.name, count, attributes)

    def use_row(self, row: int) -> None:
        """Record as worker process *row* from now on; call it once in each, after the fork.

        Raises:
            IndexError: Telemetry was not made for so many.
        """
        self._registry.use_row(row)
        self._slots = self._registry.slots

    def render(self) -> bytes:
        """Return the exposition of all workers, as `CONTENT_TYPE`."""
        return self._exposition.render()

    def metric_families(self) -> tuple[str, ...]:
        """Return the names that can be exposed: counters, then histograms, then gauges."""
        kinds = list(Kind)
        ordered = sorted(self._families, key=lambda family: kinds.index(family.kind))
        return tuple(family.name for family in ordered)


def _checked_templates(routes: Sequence[RouteLabel]) -> tuple[str, ...]:
    templates = tuple(route.template for route in routes)
    if not templates or templates[-1] != UNMATCHED or len(set(templates)) < len(templates):
        msg = f"Routes must have templates of their own, and end with '{UNMATCHED}'."
        raise ValueError(msg)
    return templates


@lru_cache(maxsize=4096)
def _attributes(family: Family, values: tuple[AttributeValue, ...]) -> Attributes:
    """Return what a sink gets with a series; the same object again while it is in use."""
    labels = {label.attribute: label for label in family.labels if label.values}
    return MappingProxyType(
        {
            key: labels[key].clamp(value) if key in labels else value
            for key, value in zip(family.attributes, values, strict=True)
        }
    )
