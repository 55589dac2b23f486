"""Telemetry: one interface, with a recorder for each flow and a method for each event.

Code reports events as enums and numbers. They are recorded in the registry first, which `/metrics`
exposes, and then passed to the operator's sink if there is one. No text can pass this interface, so
no text of a customer can; a test reads the signatures and proves that. The exception is the tracer,
which reads the ids in a header `traceparent`, and nothing but hexadecimal digits.
"""

from wats.telemetry.contract.values import (
    OPERATOR_ATTR,
    OTEL_ATTR,
    UNMATCHED,
    Adapter,
    AuthSurface,
    EndpointFamily,
    ErrorCategory,
    FamilySet,
    FinalOutcome,
    InboxState,
    LifecycleEvent,
    Method,
    Outcome,
    RejectionReason,
    RouteLabel,
    StatusClass,
    StoreOperation,
    UpdateKind,
    UpkeepTask,
)
from wats.telemetry.facade import Telemetry
from wats.telemetry.metrics.exposition import Rendered
from wats.telemetry.metrics.shared_memory import Board
from wats.telemetry.recent_errors import ErrorLedger, error_name
from wats.telemetry.sinks.isolation import Attributes, AttributeValue, TelemetrySink
from wats.telemetry.spans import Span, SpanContext, current_span

__all__ = [
    "OPERATOR_ATTR",
    "OTEL_ATTR",
    "UNMATCHED",
    "Adapter",
    "AttributeValue",
    "Attributes",
    "AuthSurface",
    "Board",
    "EndpointFamily",
    "ErrorCategory",
    "ErrorLedger",
    "FamilySet",
    "FinalOutcome",
    "InboxState",
    "LifecycleEvent",
    "Method",
    "Outcome",
    "RejectionReason",
    "Rendered",
    "RouteLabel",
    "Span",
    "SpanContext",
    "StatusClass",
    "StoreOperation",
    "Telemetry",
    "TelemetrySink",
    "UpdateKind",
    "UpkeepTask",
    "current_span",
    "error_name",
]
