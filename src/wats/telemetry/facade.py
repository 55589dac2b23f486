"""The interface of telemetry to the rest of wats: a method for each kind of event."""

import re
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from wats.clock import Now, utc_now
from wats.telemetry.contract.families import (
    AUTH_FAILURES,
    BUILD_INFO,
    DISPATCHES,
    GRAPH_DURATION,
    GRAPH_ERRORS,
    GRAPH_OPERATIONS,
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    INBOX_DEPTH,
    INBOX_OLDEST_AGE,
    LATENCY_BUCKETS,
    MESSAGE_DELIVERY,
    MESSAGES_FINAL,
    PERSISTENCE_OPERATIONS,
    SEND_OUTCOMES,
    SINK_FAILURES,
    SPANS,
    STORE_DURATION,
    UPKEEP_SUCCESS,
    WEBHOOK_LAG,
    WEBHOOK_NORMALIZATION,
    WEBHOOK_REJECTIONS,
    WORKER_PROCESSES,
    Family,
    families_of,
)
from wats.telemetry.contract.labels import (
    MAX_TARGETS,
    OTHER_TARGET,
    TARGET_NAME,
    UNKNOWN_VERSION,
    Subjects,
)
from wats.telemetry.contract.values import (
    OTEL_ATTR,
    UNMATCHED,
    Adapter,
    AuthSurface,
    EndpointFamily,
    ErrorCategory,
    FamilySet,
    FinalOutcome,
    InboxState,
    Kind,
    LifecycleEvent,
    Method,
    Outcome,
    RejectionReason,
    RouteLabel,
    SpanName,
    StatusClass,
    StoreOperation,
    UpdateKind,
    UpkeepTask,
    status_class,
)
from wats.telemetry.metrics.exposition import Exposition, Rendered
from wats.telemetry.metrics.series import Registry
from wats.telemetry.metrics.shared_memory import Board
from wats.telemetry.metrics.slots import (
    ABSENT,
    LATENCY_SUM,
    dispatch_places,
    graph_places,
    http_places,
    store_places,
)
from wats.telemetry.recent_errors import ErrorLedger
from wats.telemetry.sinks.isolation import (
    Attributes,
    AttributeValue,
    FailureLog,
    IsolatedSink,
    Log,
    TelemetrySink,
    write_json_line,
)
from wats.version import __version__

_STATUSES: Final = range(100, 600)
_CLASSES: Final = {status: status_class(status) for status in _STATUSES}
_LONGEST_SECONDS: Final = 1e9  # thirty years; a longer value is not a duration
_LARGEST_GAUGE: Final = 1e11  # a Unix time of the year 5138
_LARGEST_COUNT: Final = 1_000_000_000
_ABSENT: Final = -1

_VERSION: Final = re.compile(r"\d{1,4}(\.\d{1,4}){2}((a|b|rc|\.dev)\d{1,4})?", re.ASCII)
_GRAPH_VERSION: Final = re.compile(r"v\d{1,3}\.\d{1,3}", re.ASCII)

_NOTHING: Final[Attributes] = MappingProxyType({})


class Telemetry:
    """Records the events of the rest of wats.

    No recording method raises, for any argument and any failure of the sink. A value outside a
    closed list is recorded as `unknown`, where the list has none as `error`; a duration that is
    negative, infinite or not a number, as 0. A family that is not of the chosen set, or has no
    subject, is neither recorded nor passed to the sink.

    Args:
        routes: The route table. A route is recorded by its index in it; the last entry represents
            all requests without a route, and is `unmatched`.
        adapter: The database of the store, if there is a store.
        sink: The operator's own sink, if there is one.
        families: Which families are recorded.
        graph_api_version: For `wats_build_info`; `unknown` if it is not a version.
        error_names: Names that the error ledger may show in addition to class names.
        board: The memory for the numbers; shared with other worker processes if there are any.
        row: The row of this process on the board.
        log: Receives failures of telemetry itself.
        monotonic: The clock for the intervals of that log.
        now: The clock for its lines, and for the spans and events of the sink.

    Raises:
        ConfigError: The sink lacks a method that it must have.
        IndexError: The board has no such row.
        ValueError: The routes do not end with `unmatched`, two have the same template, or they are
            too many for the board.
    """

    def __init__(
        self,
        *,
        routes: Sequence[RouteLabel],
        adapter: Adapter | None,
        sink: TelemetrySink | None = None,
        families: FamilySet = FamilySet.CONTRACT,
        graph_api_version: str = "",
        error_names: Collection[str] = (),
        board: Board | None = None,
        row: int = 0,
        log: Log = write_json_line,
        monotonic: Callable[[], float] = time.monotonic,
        now: Now = utc_now,
    ) -> None:
        def failures(event: str) -> FailureLog:
            return FailureLog(event, log=log, monotonic=monotonic, now=now)

        self._templates = _checked_templates(routes)
        self.wants_news = families is FamilySet.OPERATOR
        """Whether webhook lag and final statuses are exposed or passed to a sink."""
        self._families = families_of(families)
        self._ordinals = range(len(self._templates))
        self._board = Board() if board is None else board
        self._row = row
        self._now = now
        self._failures = failures("wats.telemetry.error")
        self._sink = (
            None
            if sink is None
            else IsolatedSink(sink, failures("wats.telemetry.sink.error"), self._sink_failed)
        )
        self._lost: StoreOperation | None = None
        self._targets: tuple[str, ...] = ()
        self.errors = ErrorLedger(error_names, board=self._board, row=row)
        self._prepare(
            Subjects(
                routes=tuple(routes),
                adapter=adapter,
                version=_if_matches(_VERSION, __version__),
                graph_api_version=_if_matches(_GRAPH_VERSION, graph_api_version),
            )
        )

    def _prepare(self, subjects: Subjects) -> None:
        """Find the slots of all series of *subjects*."""
        self._subjects = subjects
        self._registry = Registry(self._families, subjects, board=self._board, row=self._row)
        self._exposition = Exposition(self._registry)
        self._slots = self._registry.slots
        blocks = {block.family: block for block in self._registry.blocks}
        self._places = {family: block.places for family, block in blocks.items()}
        self._http = http_places(blocks)
        self._graph = graph_places(blocks)
        self._store = store_places(blocks)
        self._updates = self._places[WEBHOOK_NORMALIZATION]
        self._dispatches = dispatch_places(blocks, self._targets)

    def use_targets(self, names: Sequence[str]) -> None:
        """Set the names of the targets of `dispatched`. Call it once, when handlers are frozen.

        The first 31 names become label values; further names become `other`. A name that is not
        valid for code, or has as many consecutive digits as a phone number, becomes `other` too.
        """
        known = dict.fromkeys(name for name in names if TARGET_NAME.fullmatch(name))
        known.pop(OTHER_TARGET, None)
        targets = tuple(known)[:MAX_TARGETS]
        self._targets = tuple(name if name in targets else OTHER_TARGET for name in names)
        self._prepare(replace(self._subjects, targets=targets))

    def http_request(self, route: int, method: Method, status: int, seconds: float) -> None:
        """Record a request that took *seconds*; *status* is 0 if it had no response."""
        # Inlined, as in all methods on the path of webhooks: a call costs as much as recording.
        try:
            answer = _CLASSES.get(status, StatusClass.UNKNOWN)
            counter, histogram = self._http[route, method, answer]
            if not 0.0 <= seconds < _LONGEST_SECONDS:
                seconds = 0.0
            slots = self._slots
            slots[counter] += 1.0
            slots[histogram + bisect_left(LATENCY_BUCKETS, seconds)] += 1.0
            slots[histogram + LATENCY_SUM] += seconds
            if self._sink is not None:
                template = self._templates[route] if route in self._ordinals else UNMATCHED
                attributes = _attributes(HTTP_REQUESTS, (method, template, answer), _code(status))
                self._sink.call("increment_counter", HTTP_REQUESTS.name, 1, attributes)
                self._sink.call("record_histogram", HTTP_REQUEST_DURATION.name, seconds, attributes)
                self._end_span(SpanName.HTTP_REQUEST, seconds, attributes)
        except Exception as error:
            self._failures.report("http_request", error)

    def webhook_update(self, kind: UpdateKind, outcome: Outcome, count: int = 1) -> None:
        """Record the outcome of *count* updates, or ignored parts, of a webhook."""
        try:
            if not 0 < count <= _LARGEST_COUNT:
                return
            self._slots[self._updates[outcome, kind]] += count
            if self._sink is not None:
                attributes = _attributes(WEBHOOK_NORMALIZATION, (outcome, kind))
                self._sink.call("increment_counter", WEBHOOK_NORMALIZATION.name, count, attributes)
        except Exception as error:
            self._failures.report("webhook_update", error)

    def webhook_rejected(self, reason: RejectionReason) -> None:
        """Record a refused webhook request, and the code of its response."""
        self._count("webhook_rejected", WEBHOOK_REJECTIONS, (reason,))

    def webhook_lag(self, seconds: float) -> None:
        """Record how long after Meta's own time a new update arrived."""
        # Runs for each update, so a family that is not exposed must cost next to nothing.
        if self.wants_news:
            self._time("webhook_lag", WEBHOOK_LAG, seconds)

    def dispatched(self, target: int, kind: UpdateKind, outcome: Outcome, seconds: float) -> None:
        """Record the outcome of a handler; *target* is its index in the names of `use_targets`."""
        if self._dispatches is None and self._sink is None:
            return
        try:
            if self._dispatches is not None:
                self._slots[self._dispatches[target, outcome]] += 1.0
            if self._sink is not None:
                known = target in range(len(self._targets))
                name = self._targets[target] if known else OTHER_TARGET
                if self._dispatches is not None:
                    attributes = _attributes(DISPATCHES, (outcome, name))
                    self._sink.call("increment_counter", DISPATCHES.name, 1, attributes)
                attributes = _dispatch_attributes(name, kind, outcome)
                self._end_span(SpanName.DISPATCH, seconds, attributes)
        except Exception as error:
            self._failures.report("dispatched", error)

    def graph_operation(
        self, family: EndpointFamily, status: int, outcome: Outcome, seconds: float
    ) -> None:
        """Record a Graph call that left the process; *status* is 0 without a response."""
        try:
            answer = _CLASSES.get(status, StatusClass.UNKNOWN)
            counter, histogram = self._graph[family, outcome, answer]
            slots = self._slots
            slots[counter] += 1.0
            if not 0.0 <= seconds < _LONGEST_SECONDS:
                seconds = 0.0
            if histogram != ABSENT:
                slots[histogram + bisect_left(LATENCY_BUCKETS, seconds)] += 1.0
                slots[histogram + LATENCY_SUM] += seconds
            if self._sink is not None:
                attributes = _attributes(GRAPH_OPERATIONS, (family, outcome, answer), _code(status))
                self._sink.call("increment_counter", GRAPH_OPERATIONS.name, 1, attributes)
                if histogram != ABSENT:
                    self._sink.call("record_histogram", GRAPH_DURATION.name, seconds, attributes)
                self._end_span(SpanName.GRAPH_REQUEST, seconds, attributes)
        except Exception as error:
            self._failures.report("graph_operation", error)

    def graph_error(self, category: ErrorCategory) -> None:
        """Record an error in a response of Graph."""
        self._count("graph_error", GRAPH_ERRORS, (category,))

    def send_outcome(self, family: EndpointFamily, outcome: Outcome) -> None:
        """Record the outcome of one attempt to send a message."""
        self._count("send_outcome", SEND_OUTCOMES, (family, outcome))

    def message_final(self, outcome: FinalOutcome, category: ErrorCategory) -> None:
        """Record the final status of a message; *category* is the reason of a failure."""
        if outcome is not FinalOutcome.FAILED:
            category = ErrorCategory.NONE
        self._count("message_final", MESSAGES_FINAL, (category, outcome))

    def message_delivered(self, seconds: float) -> None:
        """Record the time from the sending of a message to its delivery."""
        self._time("message_delivered", MESSAGE_DELIVERY, seconds)

    def auth_failure(self, surface: AuthSurface, count: int = 1) -> None:
        """Record *count* requests with missing or invalid credentials.

        A count of 0 is recorded and passed to the sink like any other, because a path that does not
        exist must take the same time as a hidden path.
        """
        self._count("auth_failure", AUTH_FAILURES, (surface,), count)

    def store_operation(
        self, adapter: Adapter, operation: StoreOperation, outcome: Outcome, seconds: float
    ) -> None:
        """Record an operation of the store; passed to `Store.open` as `observe`.

        The sink receives the loss of the store when an operation fails, and its return when the
        same operation succeeds: a full disk fails writes and still serves reads.
        """
        if self._store is None:
            return
        try:
            counter, histogram = self._store[adapter, operation, outcome]
            slots = self._slots
            slots[counter] += 1.0
            if histogram != ABSENT:
                if not 0.0 <= seconds < _LONGEST_SECONDS:
                    seconds = 0.0
                slots[histogram + bisect_left(LATENCY_BUCKETS, seconds)] += 1.0
                slots[histogram + LATENCY_SUM] += seconds
            if self._sink is not None:
                attributes = _attributes(PERSISTENCE_OPERATIONS, (adapter, outcome))
                self._sink.call("increment_counter", PERSISTENCE_OPERATIONS.name, 1, attributes)
                if histogram != ABSENT:
                    attributes = _attributes(STORE_DURATION, (adapter, operation))
                    self._sink.call("record_histogram", STORE_DURATION.name, seconds, attributes)
                self._watch_store(operation, outcome)
        except Exception as error:
            self._failures.report("store_operation", error)

    def _watch_store(self, operation: StoreOperation, outcome: Outcome) -> None:
        if outcome is Outcome.ERROR and self._lost is None:
            self._lost = operation
            self.event(LifecycleEvent.STORE_LOST)
        elif outcome is Outcome.SUCCESS and operation is self._lost:
            self._lost = None
            self.event(LifecycleEvent.STORE_BACK)

    def inbox_depth(self, state: InboxState, count: int) -> None:
        """Set the number of stored updates in *state*."""
        self._set("inbox_depth", INBOX_DEPTH, (state,), count)

    def inbox_oldest_age(self, seconds: float) -> None:
        """Set the age of the oldest pending update; 0 if none is pending."""
        self._set("inbox_oldest_age", INBOX_OLDEST_AGE, (), seconds)

    def upkeep(self, task: UpkeepTask, succeeded_at: float) -> None:
        """Set the Unix time of the last success of *task*; 0 before the first."""
        self._set("upkeep", UPKEEP_SUCCESS, (task,), succeeded_at)

    def event(self, what: LifecycleEvent) -> None:
        """Pass an event of the service to the sink, with its time."""
        try:
            if self._sink is not None:
                name = LifecycleEvent(what).value
                self._sink.call("record_event", name, _NOTHING, self._now())
        except Exception as error:
            self._failures.report("event", error)

    def _count(
        self, method: str, family: Family, values: tuple[AttributeValue, ...], count: int = 1
    ) -> None:
        """Add *count* to the series of *family* with *values*, in the order of its labels."""
        try:
            places = self._places.get(family)
            if places is None or not 0 <= count <= _LARGEST_COUNT:
                return
            self._slots[places[values]] += count
            if self._sink is not None:
                attributes = _attributes(family, values)
                self._sink.call("increment_counter", family.name, count, attributes)
        except Exception as error:
            self._failures.report(method, error)

    def _time(self, method: str, family: Family, seconds: float) -> None:
        """Record *seconds* in the histogram *family*, which has no labels."""
        try:
            places = self._places.get(family)
            if places is None:
                return
            seconds = _plausible(seconds)
            first = places[()]
            self._slots[first + bisect_left(family.buckets, seconds)] += 1.0
            self._slots[first + len(family.buckets) + 1] += seconds
            if self._sink is not None:
                self._sink.call("record_histogram", family.name, seconds, _NOTHING)
        except Exception as error:
            self._failures.report(method, error)

    def _set(
        self, method: str, family: Family, values: tuple[AttributeValue, ...], number: float
    ) -> None:
        """Set the gauge *family* with *values*, in the order of its labels, to *number*."""
        try:
            places = self._places.get(family)
            if places is None:
                return
            number = number if 0.0 <= number < _LARGEST_GAUGE else 0.0
            self._registry.gauges[places[values]] = number
            if self._sink is not None:
                attributes = _attributes(family, values)
                self._sink.call("set_gauge", family.name, number, attributes)
        except Exception as error:
            self._failures.report(method, error)

    def _end_span(self, name: SpanName, seconds: float, attributes: Attributes) -> None:
        if self._sink is not None and self._sink.has("record_span"):
            ended = self._now()
            began = ended - timedelta(seconds=_plausible(seconds))
            self._sink.call("record_span", name.value, began, ended, attributes)

    def _sink_failed(self, method: str) -> None:
        # The sink does not receive its own failure, since that call would fail as well.
        places = self._places.get(SINK_FAILURES)
        if places is not None:
            self._slots[places[(method,)]] += 1.0

    @property
    def shows_inbox(self) -> bool:
        """Whether the depth of the inbox is exposed or passed to a sink, so must be measured."""
        return INBOX_DEPTH in self._places

    @property
    def budget(self) -> int:
        """The maximum number of series that this service can expose."""
        return self._registry.budget

    def render(self, accept: str | None = None, accept_encoding: str | None = None) -> Rendered:
        """Return the exposition of all workers, in the form that these headers request."""
        gauges = self._registry.gauges
        for family, value in ((WORKER_PROCESSES, self._board.workers), (BUILD_INFO, 1)):
            for slot in self._places.get(family, {}).values():
                gauges[slot] = value
        return self._exposition.render(accept, accept_encoding)

    def metric_families(self) -> tuple[str, ...]:
        """Return the names that can be exposed: counters, then histograms, then gauges."""
        kinds = list(Kind)
        ordered = sorted(self._families, key=lambda family: kinds.index(family.kind))
        return tuple(family.name for family in ordered)


def _plausible(number: float) -> float:
    return number if 0.0 <= number < _LONGEST_SECONDS else 0.0


def _code(status: int) -> int:
    return int(status) if status in _STATUSES else 0


def _if_matches(pattern: re.Pattern[str], text: str) -> str:
    return text if pattern.fullmatch(text) else UNKNOWN_VERSION


def _checked_templates(routes: Sequence[RouteLabel]) -> tuple[str, ...]:
    templates = tuple(route.template for route in routes)
    if not templates or templates[-1] != UNMATCHED or len(set(templates)) < len(templates):
        msg = f"Routes must have templates of their own, and end with '{UNMATCHED}'."
        raise ValueError(msg)
    return templates


@lru_cache(maxsize=4096)
def _attributes(
    family: Family, values: tuple[AttributeValue, ...], status: int | None = None
) -> Attributes:
    """Return the attributes of a series for a sink; the same object again while it is in use.

    *values* are in the order of the family's labels; *status* is passed to families that want it.
    """
    attributes: dict[str, AttributeValue] = {OTEL_ATTR.HTTP_STATUS_CODE: status or 0}
    for label, value in zip(family.labels, values, strict=True):
        attributes[label.attribute] = label.clamp(value) if label.values else value
    return MappingProxyType({key: attributes[key] for key in family.attributes or ()})


@lru_cache(maxsize=4096)
def _dispatch_attributes(target: str, kind: UpdateKind, outcome: Outcome) -> Attributes:
    counted = _attributes(DISPATCHES, (outcome, target))
    parsed = _attributes(WEBHOOK_NORMALIZATION, (outcome, kind))
    return MappingProxyType({key: {**parsed, **counted}[key] for key in SPANS[SpanName.DISPATCH]})
