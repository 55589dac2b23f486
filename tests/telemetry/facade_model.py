"""The test's view of telemetry: its methods, a registry small enough to read, and a model."""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from wats.telemetry import (
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
    StoreOperation,
    Telemetry,
    UpdateKind,
    UpkeepTask,
)
from wats.telemetry.contract.families import LAG_BUCKETS, LATENCY_BUCKETS
from wats.telemetry.contract.values import status_class

TEMPLATES = ("/healthz", "/messages/:id", UNMATCHED)
SERVED = {"/healthz": (Method.GET,), "/messages/:id": (Method.GET, Method.HEAD)}
TARGETS = ("shop.orders:on_order", "shop.stock:on_stock")

RECORDING: Mapping[str, tuple[type, ...]] = {
    "http_request": (int, Method, int, float),
    "webhook_update": (UpdateKind, Outcome, int),
    "webhook_rejected": (RejectionReason,),
    "webhook_lag": (float,),
    "dispatched": (int, UpdateKind, Outcome, float),
    "graph_operation": (EndpointFamily, int, Outcome, float),
    "graph_error": (ErrorCategory,),
    "send_outcome": (EndpointFamily, Outcome),
    "message_final": (FinalOutcome, ErrorCategory),
    "message_delivered": (float,),
    "auth_failure": (AuthSurface, int),
    "store_operation": (Adapter, StoreOperation, Outcome, float),
    "inbox_depth": (InboxState, int),
    "inbox_oldest_age": (float,),
    "upkeep": (UpkeepTask, float),
    "event": (LifecycleEvent,),
}
ASKING = {"metric_families", "render", "use_targets"}

Labels = tuple[tuple[str, str], ...]


def telemetry_of_three_routes(**settings: Any) -> Telemetry:
    routes = [RouteLabel(template, SERVED.get(template, ())) for template in TEMPLATES]
    defaults = {"families": FamilySet.OPERATOR, "log": lambda _: None}
    telemetry = Telemetry(routes=routes, adapter=Adapter.SQLITE, **{**defaults, **settings})
    telemetry.use_targets(TARGETS)
    return telemetry


def samples(telemetry: Telemetry) -> dict[tuple[str, Labels], float]:
    families = text_string_to_metric_families(telemetry.render().body.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def touched(telemetry: Telemetry) -> dict[tuple[str, Labels], float]:
    untouched = {"wats_series", "wats_build_info", "wats_worker_processes"}
    return {
        series: value
        for series, value in samples(telemetry).items()
        if value and series[0] not in untouched
    }


class Model:
    """The simplest equivalent of the registry: a dict from series to number."""

    def __init__(self) -> None:
        self.numbers: Counter[tuple[str, Labels]] = Counter()

    def add(self, sample: str, amount: float = 1, /, **labels: str) -> None:
        self.numbers[sample, tuple(sorted((k, str(v)) for k, v in labels.items()))] += amount

    def set(self, sample: str, number: float, /, **labels: str) -> None:
        self.numbers[sample, tuple((k, str(v)) for k, v in labels.items())] = number

    def observe(
        self, name: str, seconds: float, bounds: Collection[float], /, **labels: str
    ) -> None:
        for bound in (*bounds, math.inf):
            le = "+Inf" if bound == math.inf else f"{bound:g}"
            self.add(f"{name}_bucket", int(seconds <= bound), le=le, **labels)
        self.add(f"{name}_sum", seconds, **labels)
        self.add(f"{name}_count", **labels)

    def http_request(self, route: int, method: Method, status: int, seconds: float) -> None:
        template = TEMPLATES[route] if route < len(TEMPLATES) else UNMATCHED
        answer = str(status_class(status))
        answer = (
            "unknown" if answer == "3xx" or (template, answer) == (UNMATCHED, "2xx") else answer
        )
        name = "http_request_duration_seconds"
        self.observe(name, seconds, LATENCY_BUCKETS, route=template, status_class=answer)
        verb = str(method)
        if method not in SERVED.get(template, ()) and answer != "4xx":
            verb, answer = "unknown", "unknown" if answer == "2xx" else answer
        self.add("http_requests_total", method=verb, route=template, status_class=answer)

    def webhook_update(self, kind: UpdateKind, outcome: Outcome, count: int) -> None:
        self.add("webhook_normalization_total", count, update_kind=kind, outcome=outcome)

    def webhook_rejected(self, reason: RejectionReason) -> None:
        self.add("wats_webhook_rejections_total", reason=reason)

    def webhook_lag(self, seconds: float) -> None:
        self.observe("wats_webhook_lag_seconds", seconds, LAG_BUCKETS)

    def dispatched(self, target: int, _: UpdateKind, outcome: Outcome, __: float) -> None:
        name = TARGETS[target] if target < len(TARGETS) else "other"
        self.add("wats_dispatch_total", target=name, outcome=outcome)

    def graph_operation(
        self, family: EndpointFamily, status: int, outcome: Outcome, seconds: float
    ) -> None:
        answer = str(status_class(status))
        name = "wats_graph_request_duration_seconds"
        self.observe(name, seconds, LATENCY_BUCKETS, endpoint_family=family, status_class=answer)
        labels = {"outcome": "success", "status_class": "2xx"}
        if (outcome, answer) != ("success", "2xx"):
            labels = {"outcome": "error", "status_class": "unknown" if answer == "2xx" else answer}
        self.add("graph_operations_total", endpoint_family=family, **labels)

    def graph_error(self, category: ErrorCategory) -> None:
        known = "unknown" if category is ErrorCategory.NONE else category
        self.add("wats_graph_errors_total", error_category=known)

    def send_outcome(self, family: EndpointFamily, outcome: Outcome) -> None:
        self.add("send_outcomes_total", endpoint_family=family, outcome=outcome)

    def message_final(self, outcome: FinalOutcome, category: ErrorCategory) -> None:
        failed = "unknown" if category is ErrorCategory.NONE else category
        known = failed if outcome is FinalOutcome.FAILED else "none"
        self.add("wats_messages_final_total", outcome=outcome, error_category=known)

    def message_delivered(self, seconds: float) -> None:
        self.observe("wats_message_delivery_seconds", seconds, LAG_BUCKETS)

    def auth_failure(self, surface: AuthSurface, count: int) -> None:
        self.add("wats_auth_failures_total", count, surface=surface)

    def store_operation(
        self, adapter: Adapter, operation: StoreOperation, outcome: Outcome, seconds: float
    ) -> None:
        ours = adapter is Adapter.SQLITE
        known = adapter if ours else "unknown"
        self.add("persistence_operations_total", adapter=known, outcome=outcome)
        labels = {"adapter": known, "operation": operation if ours else "unknown"}
        name = "wats_store_operation_duration_seconds"
        self.observe(name, seconds, LATENCY_BUCKETS, **labels)

    def inbox_depth(self, state: InboxState, count: int) -> None:
        self.set("wats_inbox_depth", count, state=state)

    def inbox_oldest_age(self, seconds: float) -> None:
        self.set("wats_inbox_oldest_age_seconds", seconds)

    def upkeep(self, task: UpkeepTask, succeeded_at: float) -> None:
        self.set("wats_upkeep_last_success_timestamp_seconds", succeeded_at, task=task)

    def event(self, what: LifecycleEvent) -> None:
        pass
