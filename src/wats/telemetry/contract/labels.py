"""The labels of the families, each with its closed list of values. No I/O."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

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
    LabelValue,
    Method,
    OutboxState,
    Outcome,
    RejectionReason,
    RouteLabel,
    SeriesCount,
    SinkMethod,
    StatusClass,
    StoreOperation,
    UpdateKind,
    UpkeepTask,
)

OTHER_TARGET: Final = "other"
"""The `target` of a consumer without a name in telemetry."""

TARGET_NAME: Final = re.compile(
    r"(?!.*(\d-*){7})[A-Za-z_](\w|[.:-]|<locals>|<lambda>){0,119}", re.ASCII
)
"""The valid names of a consumer here: like code, and with fewer digits than a phone number has."""


def shown_name(consumer: str) -> str:
    """Return the name of *consumer* for a log line, or `other` for a name that may be personal."""
    return consumer if TARGET_NAME.fullmatch(consumer) else OTHER_TARGET


MAX_TARGETS: Final = 31
"""The number of consumers that can have a name; with `other` there are 32 values."""


UNKNOWN_VERSION: Final = "unknown"
"""The label value for an invalid version."""


class Subject(StrEnum):
    """The subject without which a family is not exposed."""

    ALWAYS = "always"
    STORE = "store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """The subjects of telemetry in this process.

    Attributes:
        routes: The route table, `unmatched` at its end.
        adapter: The database of the store, if there is a store.
        targets: The names of the consumers, at most `MAX_TARGETS`.
        version: The version of wats.
        graph_api_version: The version of the Graph API that is called.
    """

    routes: tuple[RouteLabel, ...]
    adapter: Adapter | None
    targets: tuple[str, ...] = ()
    version: str = UNKNOWN_VERSION
    graph_api_version: str = UNKNOWN_VERSION

    def have(self, subject: Subject) -> bool:
        """Return whether *subject* is present."""
        return subject is Subject.ALWAYS or self.adapter is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A label key, its closed values in order, and the fallback for any other value.

    Attributes:
        key: Its name in the exposition.
        attribute: Its name for sinks; empty if sinks do not receive it.
        values: Its values. Empty if they are known only when the service is made.
        other: The fallback for any other value.
        source: The source of the values in that case.
        described: The values in that case, for the documentation.
    """

    key: str
    attribute: str
    values: tuple[str, ...] = ()
    other: str
    source: Callable[[Subjects], tuple[str, ...]] | None = None
    described: str = ""

    def values_of(self, subjects: Subjects) -> tuple[str, ...]:
        """Return the values of the label for *subjects*."""
        return self.values if self.source is None else self.source(subjects)

    def clamp(self, value: object) -> str:
        """Return the known value that equals *value*, as plain text, or else `other`."""
        return str(next((known for known in self.values if known == value), self.other))


Values: TypeAlias = tuple[str, ...]
"""The label values of one series, in the order of its family's labels."""


def _label(key: str, attribute: str, values: Iterable[LabelValue], other: str) -> Label:
    return Label(key=key, attribute=attribute, values=tuple(values), other=other)


def _targets(subjects: Subjects) -> Values:
    # Always the highest possible number of values, so that no series moves when the names become
    # known.
    unused = (f"unused:{place}" for place in range(len(subjects.targets), MAX_TARGETS))
    return (*subjects.targets, *unused, OTHER_TARGET)


ROUTE = Label(
    key="route",
    attribute=OTEL_ATTR.HTTP_ROUTE,
    other=UNMATCHED,
    source=lambda subjects: tuple(route.template for route in subjects.routes),
    described="the templates of the route table",
)
METHOD = _label("method", OTEL_ATTR.HTTP_METHOD, Method, Method.UNKNOWN)
STATUS_CLASS = _label("status_class", OTEL_ATTR.HTTP_STATUS_CLASS, StatusClass, StatusClass.UNKNOWN)
OUTCOME = _label("outcome", OTEL_ATTR.OPERATION_OUTCOME, Outcome, Outcome.ERROR)
UPDATE_KIND = _label("update_kind", OTEL_ATTR.WEBHOOK_UPDATE_KIND, UpdateKind, UpdateKind.UNKNOWN)
ENDPOINT_FAMILY = _label(
    "endpoint_family",
    OTEL_ATTR.GRAPH_ENDPOINT_FAMILY,
    tuple(EndpointFamily),
    EndpointFamily.UNKNOWN,
)
ADAPTER = _label("adapter", OTEL_ATTR.PERSISTENCE_ADAPTER, Adapter, Adapter.UNKNOWN)
# The store has no unknown operation of its own, so the label has a value more.
OPERATION = Label(
    key="operation",
    attribute=OPERATOR_ATTR.PERSISTENCE_OPERATION,
    values=(*StoreOperation, "unknown"),
    other="unknown",
)
OUTBOX_STATE = _label("state", OPERATOR_ATTR.OUTBOX_STATE, OutboxState, OutboxState.PENDING)
INBOX_STATE = _label("state", OPERATOR_ATTR.INBOX_STATE, InboxState, InboxState.PENDING)
TASK = _label("task", OPERATOR_ATTR.UPKEEP_TASK, UpkeepTask, UpkeepTask.PURGE)
REASON = _label(
    "reason",
    OPERATOR_ATTR.REJECTION_REASON,
    tuple(RejectionReason),
    RejectionReason.UNKNOWN,
)
TARGET = Label(
    key="target",
    attribute=OPERATOR_ATTR.DISPATCH_TARGET,
    other=OTHER_TARGET,
    source=_targets,
    described=f"the names of the first {MAX_TARGETS} consumers",
)
FAILURES = tuple(category for category in ErrorCategory if category is not ErrorCategory.NONE)
FINAL_CATEGORY = _label(
    "error_category", OPERATOR_ATTR.ERROR_CATEGORY, ErrorCategory, ErrorCategory.UNKNOWN
)
FAILURE_CATEGORY = _label(
    "error_category", OPERATOR_ATTR.ERROR_CATEGORY, FAILURES, ErrorCategory.UNKNOWN
)
FINAL_OUTCOME = _label("outcome", OPERATOR_ATTR.DELIVERY_OUTCOME, FinalOutcome, FinalOutcome.FAILED)
SURFACE = _label("surface", OPERATOR_ATTR.AUTH_SURFACE, AuthSurface, AuthSurface.API)
SINK_METHOD = _label("method", "", SinkMethod, SinkMethod.INCREMENT_COUNTER)
SERIES_COUNT = _label("kind", "", SeriesCount, SeriesCount.LIVE)
VERSION = Label(
    key="version",
    attribute="",
    other=UNKNOWN_VERSION,
    source=lambda subjects: tuple(dict.fromkeys((subjects.version, UNKNOWN_VERSION))),
    described="the version of wats",
)
GRAPH_VERSION = Label(
    key="graph_api_version",
    attribute="",
    other=UNKNOWN_VERSION,
    source=lambda subjects: tuple(dict.fromkeys((subjects.graph_api_version, UNKNOWN_VERSION))),
    described="the configured version of the Graph API",
)
