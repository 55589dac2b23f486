"""The recorders: the events of each flow, with the metric families that count them.

Each parameter is an enum or a number, and so is each value that a body returns, or it is a name
that was checked when the service was made. No text can pass.
"""

from collections.abc import Sequence
from itertools import product
from types import MappingProxyType
from typing import Final

from wats.telemetry.contract.families import (
    AUTH_FAILURES,
    CIRCUIT_OPEN,
    CONSUMER_LAG,
    CONSUMER_OLDEST_AGE,
    DISPATCHES,
    GRAPH_DURATION,
    GRAPH_ERRORS,
    GRAPH_OPERATIONS,
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    INBOX_DEPTH,
    INBOX_OLDEST_AGE,
    MESSAGE_DELIVERY,
    MESSAGES_FINAL,
    OUTBOX_DEPTH,
    OUTBOX_FILL,
    OUTBOX_OLDEST_AGE,
    OUTBOX_PAUSED,
    OUTBOX_PROCESSED,
    PERSISTENCE_OPERATIONS,
    SEND_OUTCOMES,
    STORE_DURATION,
    UPKEEP_SUCCESS,
    WEBHOOK_LAG,
    WEBHOOK_NORMALIZATION,
    WEBHOOK_REJECTIONS,
    WORKER_REPLACEMENTS,
)
from wats.telemetry.contract.labels import OTHER_TARGET, UPDATE_KIND
from wats.telemetry.contract.values import (
    OPERATOR_ATTR,
    OTEL_ATTR,
    UNMATCHED,
    Adapter,
    AuthSurface,
    EndpointFamily,
    ErrorCategory,
    FinalOutcome,
    InboxState,
    LifecycleEvent,
    Method,
    OutboxState,
    Outcome,
    RejectionReason,
    SpanName,
    StoreOperation,
    UpdateKind,
    UpkeepTask,
    status_class,
)
from wats.telemetry.recording import Described, Destination, Recorder, counted, gauged, timed
from wats.telemetry.sinks.isolation import Attributes

_NOT_FOUND: Final = 404
_STATUSES: Final = range(100, 600)
_NO_ATTRIBUTES: Final[Attributes] = MappingProxyType({})


class HttpRecorder(Recorder):
    """Requests, and their credentials."""

    def __init__(self, destination: Destination, templates: Sequence[str]) -> None:
        super().__init__(destination)
        self._templates = templates
        # The first 404 of a hidden path must take as long as the first of any other path.
        for values in product(range(len(templates)), Method, (_NOT_FOUND,)):
            self.lookups["request"].find(values)

    @timed(HTTP_REQUEST_DURATION, counter=HTTP_REQUESTS, span=SpanName.HTTP_REQUEST)
    def request(self, route: int, method: Method, status: int, seconds: float, /) -> Described:
        """Record a request that took *seconds*; *status* is 0 if it had no response."""
        is_known = route in range(len(self._templates))
        return {
            OTEL_ATTR.HTTP_ROUTE: self._templates[route] if is_known else UNMATCHED,
            OTEL_ATTR.HTTP_METHOD: method,
            **_response(status),
        }

    @counted(AUTH_FAILURES)
    def auth_failure(self, surface: AuthSurface, count: int = 1, /) -> Described:
        """Record *count* requests with missing or invalid credentials.

        0 is added, and passed to the sink, as 1 is: a path that does not exist must take the same
        time as one that is hidden.
        """
        return {OPERATOR_ATTR.AUTH_SURFACE: surface}


class WebhookRecorder(Recorder):
    """Webhooks, and their updates until the last consumer has handled them."""

    _targets: Sequence[str] = ()

    def use_targets(self, names: Sequence[str]) -> None:
        """Set the names of the consumers, in which events take indices: values of `target`."""
        self._targets = tuple(names)
        for event in ("dispatched", "consumer_lag", "consumer_oldest_age", "circuit_open"):
            self.lookups[event].restart()

    @counted(WEBHOOK_REJECTIONS)
    def rejected(self, reason: RejectionReason, count: int = 1, /) -> Described:
        """Record a refused webhook request, and the code of its response."""
        return {OPERATOR_ATTR.REJECTION_REASON: reason}

    @timed(WEBHOOK_LAG)
    def lag(self, seconds: float, /) -> Described:
        """Record how long after Meta's own time a new update arrived."""
        return {}

    @counted(WEBHOOK_NORMALIZATION)
    def update(self, kind: UpdateKind, outcome: Outcome, count: int = 1, /) -> Described:
        """Record the outcome of *count* updates, or ignored parts, of a webhook."""
        return {OTEL_ATTR.WEBHOOK_UPDATE_KIND: kind, OTEL_ATTR.OPERATION_OUTCOME: outcome}

    @timed(counter=DISPATCHES, span=SpanName.DISPATCH)
    def dispatched(
        self, target: int, kind: UpdateKind, outcome: Outcome, seconds: float, /
    ) -> Described:
        """Record an attempt of a consumer; *target* is its index in these names.

        A postponed attempt is `skipped`: neither success nor failure.
        """
        return {
            OPERATOR_ATTR.DISPATCH_TARGET: self._name_of(target),
            OTEL_ATTR.WEBHOOK_UPDATE_KIND: UPDATE_KIND.clamp(kind),
            OTEL_ATTR.OPERATION_OUTCOME: outcome,
        }

    @timed(CONSUMER_LAG)
    def consumer_lag(self, target: int, seconds: float, /) -> Described:
        """Record how long after its arrival a consumer has handled an update."""
        return {OPERATOR_ATTR.DISPATCH_TARGET: self._name_of(target)}

    @gauged(CONSUMER_OLDEST_AGE)
    def consumer_oldest_age(self, target: int, seconds: float, /) -> Described:
        """Set the age of the oldest pending update of a consumer; 0 if none is pending."""
        return {OPERATOR_ATTR.DISPATCH_TARGET: self._name_of(target)}

    @gauged(CIRCUIT_OPEN)
    def circuit_open(self, target: int, is_open: int, /) -> Described:
        """Set whether the circuit of a subscriber is open: 1 or 0."""
        return {OPERATOR_ATTR.DISPATCH_TARGET: self._name_of(target)}

    def _name_of(self, target: int) -> str:
        return self._targets[target] if target in range(len(self._targets)) else OTHER_TARGET


class GraphRecorder(Recorder):
    """Calls of the Graph API."""

    @timed(GRAPH_DURATION, counter=GRAPH_OPERATIONS, span=SpanName.GRAPH_REQUEST)
    def operation(
        self, family: EndpointFamily, status: int, outcome: Outcome, seconds: float, /
    ) -> Described:
        """Record a Graph call that left the process; *status* is 0 without a response."""
        return {
            OTEL_ATTR.GRAPH_ENDPOINT_FAMILY: family,
            OTEL_ATTR.OPERATION_OUTCOME: outcome,
            **_response(status),
        }

    @counted(GRAPH_ERRORS)
    def error(self, category: ErrorCategory, count: int = 1, /) -> Described:
        """Record an error in a response of Graph."""
        return {OPERATOR_ATTR.ERROR_CATEGORY: category}


class MessageRecorder(Recorder):
    """Messages to customers, from the attempt to send until the final status."""

    @counted(SEND_OUTCOMES)
    def send_outcome(
        self, family: EndpointFamily, outcome: Outcome, count: int = 1, /
    ) -> Described:
        """Record the outcome of one attempt to send a message."""
        return {OTEL_ATTR.GRAPH_ENDPOINT_FAMILY: family, OTEL_ATTR.OPERATION_OUTCOME: outcome}

    @counted(MESSAGES_FINAL)
    def final_status(
        self, outcome: FinalOutcome, category: ErrorCategory, count: int = 1, /
    ) -> Described:
        """Record the final status of a message; *category* is the reason of a failure."""
        is_failure = outcome is FinalOutcome.FAILED
        return {
            OPERATOR_ATTR.DELIVERY_OUTCOME: outcome,
            OPERATOR_ATTR.ERROR_CATEGORY: category if is_failure else ErrorCategory.NONE,
        }

    @timed(MESSAGE_DELIVERY)
    def delivered(self, seconds: float, /) -> Described:
        """Record the time from the sending of a message to its delivery."""
        return {}


class ServiceRecorder(Recorder):
    """The life of the service, and its upkeep."""

    def event(self, what: LifecycleEvent, /) -> None:
        """Pass an event of the service to the sink, with its time."""
        destination = self.destination
        try:
            if destination.sink is not None:
                name, now = LifecycleEvent(what).value, destination.now()
                destination.sink.call("record_event", name, _NO_ATTRIBUTES, now)
        except Exception as error:
            destination.failures.report("ServiceRecorder.event", error)

    @counted(WORKER_REPLACEMENTS)
    def worker_replaced(self, count: int = 1, /) -> Described:
        """Record that this worker process replaces one that has ended."""
        return {}

    @gauged(UPKEEP_SUCCESS)
    def upkeep(self, task: UpkeepTask, succeeded_at: float, /) -> Described:
        """Set the Unix time of the last success of *task*; 0 before the first."""
        return {OPERATOR_ATTR.UPKEEP_TASK: task}


class StoreRecorder(Recorder):
    """Operations of the store, and the inbox in it."""

    def __init__(self, destination: Destination, service: ServiceRecorder) -> None:
        super().__init__(destination)
        self._service = service
        self._lost: StoreOperation | None = None

    def _watch(self, _: Adapter, operation: StoreOperation, outcome: Outcome) -> None:
        if outcome is Outcome.ERROR and self._lost is None:
            self._lost = operation
            self._service.event(LifecycleEvent.STORE_LOST)
        elif outcome is Outcome.SUCCESS and operation is self._lost:
            self._lost = None
            self._service.event(LifecycleEvent.STORE_BACK)

    @timed(STORE_DURATION, counter=PERSISTENCE_OPERATIONS, then=_watch)
    def operation(
        self, adapter: Adapter, operation: StoreOperation, outcome: Outcome, seconds: float, /
    ) -> Described:
        """Record an operation of the store; this is the `Observe` that a store is opened with.

        The sink receives the loss of the store when an operation fails, and its return when the
        same operation succeeds: a full disk fails writes and still serves reads.
        """
        return {
            OTEL_ATTR.PERSISTENCE_ADAPTER: adapter,
            OPERATOR_ATTR.PERSISTENCE_OPERATION: operation,
            OTEL_ATTR.OPERATION_OUTCOME: outcome,
        }

    @gauged(INBOX_DEPTH)
    def inbox_depth(self, state: InboxState, count: int, /) -> Described:
        """Set the number of stored updates in *state*."""
        return {OPERATOR_ATTR.INBOX_STATE: state}

    @counted(OUTBOX_PROCESSED)
    def outbox_processed(self, outcome: Outcome, count: int = 1, /) -> Described:
        """Record *count* items of the outbox that were sent, or became dead letters."""
        return {OTEL_ATTR.OPERATION_OUTCOME: outcome}

    @gauged(OUTBOX_DEPTH)
    def outbox_depth(self, adapter: Adapter, state: OutboxState, count: int, /) -> Described:
        """Set the number of items of the outbox in *state*."""
        return {OTEL_ATTR.PERSISTENCE_ADAPTER: adapter, OPERATOR_ATTR.OUTBOX_STATE: state}

    @gauged(OUTBOX_OLDEST_AGE)
    def outbox_oldest_age(self, seconds: float, /) -> Described:
        """Set the age of the oldest message in the outbox that is not sent; 0 if there is none."""
        return {}

    @gauged(OUTBOX_FILL)
    def outbox_fill(self, ratio: float, /) -> Described:
        """Set the number of messages that wait, per message that may wait in the outbox."""
        return {}

    @gauged(OUTBOX_PAUSED)
    def outbox_paused(self, value: int, /) -> Described:
        """Set whether the outbox is paused: 1 or 0."""
        return {}

    @gauged(INBOX_OLDEST_AGE)
    def inbox_oldest_age(self, seconds: float, /) -> Described:
        """Set the age of the oldest pending update; 0 if none is pending."""
        return {}


def _response(status: int) -> Described:
    return {
        OTEL_ATTR.HTTP_STATUS_CODE: status if status in _STATUSES else 0,
        OTEL_ATTR.HTTP_STATUS_CLASS: status_class(status),
    }
