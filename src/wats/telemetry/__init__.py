"""Telemetry: one seam, with one method for each thing that can happen.

Code says what happened in enums and numbers. It goes into the registry first, which `/metrics`
shows, and then to the operator's sink if there is one. No text can pass this seam, so none of a
customer's can; a test reads the signatures and holds that.
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
    "StatusClass",
    "StoreOperation",
    "Telemetry",
    "TelemetrySink",
    "UpdateKind",
    "UpkeepTask",
    "error_name",
]
