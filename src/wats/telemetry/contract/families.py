"""The metric families as data; nothing else is ever exposed. No I/O.

Exposition, diagnostics, sinks, documentation and tests use this table. A change of a name, label or
value here changes the contract with every reader of `/metrics`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Final

from wats.telemetry.contract.labels import (
    ADAPTER,
    ENDPOINT_FAMILY,
    FAILURE_CATEGORY,
    FINAL_CATEGORY,
    FINAL_OUTCOME,
    GRAPH_VERSION,
    INBOX_STATE,
    METHOD,
    OPERATION,
    OTHER_TARGET,
    OUTBOX_STATE,
    OUTCOME,
    REASON,
    ROUTE,
    SERIES_COUNT,
    SINK_METHOD,
    STATUS_CLASS,
    SURFACE,
    TARGET,
    TASK,
    UPDATE_KIND,
    VERSION,
    Label,
    Subject,
)
from wats.telemetry.contract.possible_series import (
    ENDED,
    KNOWN_ENDPOINTS,
    Series,
    adapters,
    all_of,
    final_statuses,
    initial_durations,
    initial_graph,
    initial_requests,
    possible_durations,
    possible_graph,
    possible_outbox,
    possible_requests,
    possible_store,
    possible_store_durations,
)
from wats.telemetry.contract.values import (
    OPERATOR_ATTR,
    OTEL_ATTR,
    EndpointFamily,
    FamilySet,
    Kind,
    Outcome,
    SpanName,
    StatusClass,
    StoreOperation,
    UpdateKind,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Family:
    """A metric family.

    Attributes:
        name: Its name in the exposition and for sinks.
        kind: Counter, histogram or gauge.
        help: Its HELP text.
        unit: Its unit for sinks, in UCUM.
        labels: Its labels, sorted by key, as the exposition has them.
        attributes: The keys that a sink receives, in order; `None` if sinks do not receive it.
        buckets: The upper bounds of a histogram, without the last one, which is infinite.
        set: The smallest set that includes it.
        needs: The subject without which it is not exposed.
        possible: The series that can ever exist; by default every combination of label values. An
            impossible combination counts for the nearest possible one, in which as few labels as
            possible became `other`, or else for the last.
        initial: The series that are exposed before any event, so that a first failure is an
            increase and not a new series.
    """

    name: str
    kind: Kind
    help: str
    unit: str = "s"
    labels: tuple[Label, ...] = ()
    attributes: tuple[str, ...] | None = None
    buckets: tuple[float, ...] = ()
    set: FamilySet = FamilySet.CONTRACT
    needs: Subject = Subject.ALWAYS
    possible: Series | None = None
    initial: Series = lambda _: ()


LATENCY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_BUCKETS: Final = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
CONSUMER_BUCKETS: Final = (0.1, 1.0, 15.0, 60.0, 300.0, 3600.0)
"""Fewer than those of webhooks, as each consumer has its own."""


HTTP_REQUESTS = Family(
    name="http_requests_total",
    kind=Kind.COUNTER,
    unit="{request}",
    help="Inbound HTTP requests to the service.",
    labels=(METHOD, ROUTE, STATUS_CLASS),
    attributes=(
        OTEL_ATTR.HTTP_ROUTE,
        OTEL_ATTR.HTTP_METHOD,
        OTEL_ATTR.HTTP_STATUS_CODE,
        OTEL_ATTR.HTTP_STATUS_CLASS,
    ),
    possible=possible_requests,
    initial=initial_requests,
)

HTTP_REQUEST_DURATION = Family(
    name="http_request_duration_seconds",
    kind=Kind.HISTOGRAM,
    help="Request duration in seconds.",
    labels=(ROUTE, STATUS_CLASS),
    attributes=HTTP_REQUESTS.attributes,
    buckets=LATENCY_BUCKETS,
    possible=possible_durations,
    initial=initial_durations,
)

WEBHOOK_NORMALIZATION = Family(
    name="webhook_normalization_total",
    kind=Kind.COUNTER,
    unit="{update}",
    help="Webhook envelopes normalized by update kind and outcome.",
    labels=(OUTCOME, UPDATE_KIND),
    attributes=(OTEL_ATTR.WEBHOOK_UPDATE_KIND, OTEL_ATTR.OPERATION_OUTCOME),
    initial=lambda _: product((*ENDED, Outcome.SKIPPED), UpdateKind),
)

GRAPH_OPERATIONS = Family(
    name="graph_operations_total",
    kind=Kind.COUNTER,
    unit="{request}",
    help="Outbound Graph API calls by endpoint family and status class.",
    labels=(ENDPOINT_FAMILY, OUTCOME, STATUS_CLASS),
    attributes=(
        OTEL_ATTR.GRAPH_ENDPOINT_FAMILY,
        OTEL_ATTR.HTTP_STATUS_CODE,
        OTEL_ATTR.HTTP_STATUS_CLASS,
        OTEL_ATTR.OPERATION_OUTCOME,
    ),
    possible=possible_graph,
    initial=initial_graph,
)

SEND_OUTCOMES = Family(
    name="send_outcomes_total",
    kind=Kind.COUNTER,
    unit="{message}",
    help="Message send attempts by outcome.",
    labels=(ENDPOINT_FAMILY, OUTCOME),
    attributes=(OTEL_ATTR.GRAPH_ENDPOINT_FAMILY, OTEL_ATTR.OPERATION_OUTCOME),
    initial=lambda _: product(KNOWN_ENDPOINTS, ENDED),
)

PERSISTENCE_OPERATIONS = Family(
    name="persistence_operations_total",
    kind=Kind.COUNTER,
    unit="{operation}",
    help="Persistence store operations by adapter and outcome.",
    labels=(ADAPTER, OUTCOME),
    attributes=(OTEL_ATTR.PERSISTENCE_ADAPTER, OTEL_ATTR.OPERATION_OUTCOME),
    needs=Subject.STORE,
    possible=possible_store,
    initial=lambda subjects: product(adapters(subjects)[:1], ENDED),
)

OUTBOX_PROCESSED = Family(
    name="outbox_processed_total",
    kind=Kind.COUNTER,
    unit="{item}",
    help="Outbox worker items processed by outcome.",
    labels=(OUTCOME,),
    attributes=(OTEL_ATTR.OPERATION_OUTCOME,),
    needs=Subject.STORE,
    initial=lambda _: product(ENDED),
)

OUTBOX_DEPTH = Family(
    name="outbox_depth",
    kind=Kind.GAUGE,
    unit="{item}",
    help="Number of items in the persistence outbox, partitioned by adapter and state.",
    labels=(ADAPTER, OUTBOX_STATE),
    attributes=(OTEL_ATTR.PERSISTENCE_ADAPTER, OPERATOR_ATTR.OUTBOX_STATE),
    needs=Subject.STORE,
    possible=possible_outbox,
)

WEBHOOK_REJECTIONS = Family(
    name="wats_webhook_rejections_total",
    kind=Kind.COUNTER,
    unit="{request}",
    help="Rejected webhook requests, by reason.",
    labels=(REASON,),
    attributes=(OPERATOR_ATTR.REJECTION_REASON,),
    initial=all_of(REASON),
)

WEBHOOK_LAG = Family(
    name="wats_webhook_lag_seconds",
    kind=Kind.HISTOGRAM,
    help="Webhook lag in seconds, from Meta's timestamp of a new update to its arrival.",
    attributes=(),
    buckets=LAG_BUCKETS,
    set=FamilySet.OPERATOR,
    initial=all_of(),
)

INBOX_DEPTH = Family(
    name="wats_inbox_depth",
    kind=Kind.GAUGE,
    unit="{update}",
    help="Stored deliveries, by state.",
    labels=(INBOX_STATE,),
    attributes=(OPERATOR_ATTR.INBOX_STATE,),
    set=FamilySet.OPERATOR,
    needs=Subject.STORE,
)

INBOX_OLDEST_AGE = Family(
    name="wats_inbox_oldest_age_seconds",
    kind=Kind.GAUGE,
    help="Age in seconds of the oldest pending update, leased or not; 0 if none is pending.",
    attributes=(),
    set=FamilySet.OPERATOR,
    needs=Subject.STORE,
)

DISPATCHES = Family(
    name="wats_dispatch_total",
    kind=Kind.COUNTER,
    unit="{update}",
    help="Delivery attempts, by consumer and outcome.",
    labels=(OUTCOME, TARGET),
    attributes=(OPERATOR_ATTR.DISPATCH_TARGET, OTEL_ATTR.OPERATION_OUTCOME),
    set=FamilySet.OPERATOR,
    initial=lambda subjects: product(ENDED, (*subjects.targets, OTHER_TARGET)),
)

CONSUMER_LAG = Family(
    name="wats_consumer_lag_seconds",
    kind=Kind.HISTOGRAM,
    help="Time in seconds from the arrival of an update until a consumer handled it, by consumer.",
    labels=(TARGET,),
    attributes=(OPERATOR_ATTR.DISPATCH_TARGET,),
    buckets=CONSUMER_BUCKETS,
    set=FamilySet.OPERATOR,
    needs=Subject.STORE,
    initial=lambda subjects: product((*subjects.targets, OTHER_TARGET)),
)

CONSUMER_OLDEST_AGE = Family(
    name="wats_consumer_oldest_age_seconds",
    kind=Kind.GAUGE,
    help="Age in seconds of the oldest pending update of a consumer, leased or not; 0 if none is.",
    labels=(TARGET,),
    attributes=(OPERATOR_ATTR.DISPATCH_TARGET,),
    set=FamilySet.OPERATOR,
    needs=Subject.STORE,
)

CIRCUIT_OPEN = Family(
    name="wats_circuit_open",
    kind=Kind.GAUGE,
    unit="1",
    help="Whether the circuit breaker of a subscriber is open: 1, or 0 while it is closed.",
    labels=(TARGET,),
    attributes=(OPERATOR_ATTR.DISPATCH_TARGET,),
    set=FamilySet.OPERATOR,
    needs=Subject.STORE,
)

OUTBOX_OLDEST_AGE = Family(
    name="wats_outbox_oldest_age_seconds",
    kind=Kind.GAUGE,
    help="Age in seconds of the oldest pending outbox item; 0 if none is pending.",
    attributes=(),
    set=FamilySet.OPERATOR,
    needs=Subject.STORE,
)

OUTBOX_FILL = Family(
    name="wats_outbox_fill_ratio",
    kind=Kind.GAUGE,
    unit="1",
    help="Pending outbox items per item that may be pending; at 1, further items are refused.",
    attributes=(),
    set=FamilySet.OPERATOR,
    needs=Subject.STORE,
)

OUTBOX_PAUSED = Family(
    name="wats_outbox_paused",
    kind=Kind.GAUGE,
    unit="1",
    help="Whether the outbox is paused: 1, or 0 while it sends.",
    attributes=(),
    set=FamilySet.OPERATOR,
    needs=Subject.STORE,
)

MESSAGES_FINAL = Family(
    name="wats_messages_final_total",
    kind=Kind.COUNTER,
    unit="{message}",
    help="Outbound messages by final delivery status.",
    labels=(FINAL_CATEGORY, FINAL_OUTCOME),
    attributes=(OPERATOR_ATTR.DELIVERY_OUTCOME, OPERATOR_ATTR.ERROR_CATEGORY),
    set=FamilySet.OPERATOR,
    possible=final_statuses,
    initial=final_statuses,
)

MESSAGE_DELIVERY = Family(
    name="wats_message_delivery_seconds",
    kind=Kind.HISTOGRAM,
    help="Delivery latency of outbound messages in seconds, from the send to the delivery.",
    attributes=(),
    buckets=LAG_BUCKETS,
    set=FamilySet.OPERATOR,
    initial=all_of(),
)

GRAPH_DURATION = Family(
    name="wats_graph_request_duration_seconds",
    kind=Kind.HISTOGRAM,
    help="Duration of Graph API calls in seconds.",
    labels=(ENDPOINT_FAMILY, STATUS_CLASS),
    attributes=GRAPH_OPERATIONS.attributes,
    buckets=LATENCY_BUCKETS,
    set=FamilySet.OPERATOR,
    initial=lambda _: [(EndpointFamily.MESSAGES, StatusClass.SUCCESS)],
)

GRAPH_ERRORS = Family(
    name="wats_graph_errors_total",
    kind=Kind.COUNTER,
    unit="{error}",
    help="Errors returned by the Graph API, by category.",
    labels=(FAILURE_CATEGORY,),
    attributes=(OPERATOR_ATTR.ERROR_CATEGORY,),
    initial=all_of(FAILURE_CATEGORY),
)

STORE_DURATION = Family(
    name="wats_store_operation_duration_seconds",
    kind=Kind.HISTOGRAM,
    help="Latency of store operations in seconds, including time in the queue.",
    labels=(ADAPTER, OPERATION),
    attributes=(OTEL_ATTR.PERSISTENCE_ADAPTER, OPERATOR_ATTR.PERSISTENCE_OPERATION),
    buckets=LATENCY_BUCKETS,
    set=FamilySet.OPERATOR,
    needs=Subject.STORE,
    possible=possible_store_durations,
    initial=lambda subjects: product(adapters(subjects)[:1], (StoreOperation.RECEIVE,)),
)

UPKEEP_SUCCESS = Family(
    name="wats_upkeep_last_success_timestamp_seconds",
    kind=Kind.GAUGE,
    help="Unix time of the last success of an upkeep task; 0 before the first success.",
    labels=(TASK,),
    attributes=(OPERATOR_ATTR.UPKEEP_TASK,),
    set=FamilySet.OPERATOR,
    needs=Subject.STORE,
)

AUTH_FAILURES = Family(
    name="wats_auth_failures_total",
    kind=Kind.COUNTER,
    unit="{request}",
    help="Requests with missing or invalid credentials, by surface.",
    labels=(SURFACE,),
    attributes=(OPERATOR_ATTR.AUTH_SURFACE,),
    set=FamilySet.OPERATOR,
    initial=all_of(SURFACE),
)

SINK_FAILURES = Family(
    name="wats_sink_failures_total",
    kind=Kind.COUNTER,
    help="Calls of the telemetry sink that failed or were dropped, by method.",
    labels=(SINK_METHOD,),
    set=FamilySet.OPERATOR,
    initial=all_of(SINK_METHOD),
)

WORKER_PROCESSES = Family(
    name="wats_worker_processes",
    kind=Kind.GAUGE,
    help="Running worker processes.",
    set=FamilySet.OPERATOR,
)

WORKER_REPLACEMENTS = Family(
    name="wats_worker_replacements_total",
    kind=Kind.COUNTER,
    unit="{process}",
    help="Worker processes that replaced one that had ended.",
    attributes=(),
    set=FamilySet.OPERATOR,
    initial=all_of(),
)

BUILD_INFO = Family(
    name="wats_build_info",
    kind=Kind.GAUGE,
    help="Always 1; the labels hold the versions of wats and of the Graph API.",
    labels=(GRAPH_VERSION, VERSION),
    set=FamilySet.OPERATOR,
    possible=lambda subjects: [(subjects.graph_api_version, subjects.version)],
)

SERIES = Family(
    name="wats_series",
    kind=Kind.GAUGE,
    help="Number of series in this exposition (live), and its upper bound (budget).",
    labels=(SERIES_COUNT,),
    set=FamilySet.OPERATOR,
)

FAMILIES: Final = (
    HTTP_REQUESTS,
    HTTP_REQUEST_DURATION,
    WEBHOOK_NORMALIZATION,
    GRAPH_OPERATIONS,
    SEND_OUTCOMES,
    PERSISTENCE_OPERATIONS,
    OUTBOX_PROCESSED,
    OUTBOX_DEPTH,
    WEBHOOK_REJECTIONS,
    WEBHOOK_LAG,
    INBOX_DEPTH,
    INBOX_OLDEST_AGE,
    DISPATCHES,
    CONSUMER_LAG,
    CONSUMER_OLDEST_AGE,
    CIRCUIT_OPEN,
    OUTBOX_OLDEST_AGE,
    OUTBOX_FILL,
    OUTBOX_PAUSED,
    MESSAGES_FINAL,
    MESSAGE_DELIVERY,
    GRAPH_DURATION,
    GRAPH_ERRORS,
    STORE_DURATION,
    UPKEEP_SUCCESS,
    AUTH_FAILURES,
    SINK_FAILURES,
    WORKER_PROCESSES,
    WORKER_REPLACEMENTS,
    BUILD_INFO,
    SERIES,
)
"""Every family that can be exposed, in the order of the exposition."""


SPANS: Final[Mapping[SpanName, tuple[str, ...]]] = {
    SpanName.HTTP_REQUEST: HTTP_REQUESTS.attributes or (),
    SpanName.GRAPH_REQUEST: GRAPH_OPERATIONS.attributes or (),
    SpanName.DISPATCH: (*(DISPATCHES.attributes or ()), OTEL_ATTR.WEBHOOK_UPDATE_KIND),
}
"""The attributes of each span, in order."""


def families_of(chosen: FamilySet) -> tuple[Family, ...]:
    """Return the families of a set, in the order of the exposition; `operator` includes all."""
    return tuple(f for f in FAMILIES if f.set is FamilySet.CONTRACT or f.set is chosen)
