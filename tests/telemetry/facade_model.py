"""The test's view of telemetry: its methods, a registry small enough to read, and a model."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from inspect import getmembers_static, signature
from operator import attrgetter
from typing import Any, get_type_hints

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
from wats.telemetry.contract.families import CONSUMER_BUCKETS, LAG_BUCKETS, LATENCY_BUCKETS
from wats.telemetry.contract.values import OutboxState, status_class
from wats.telemetry.recording import Event, Recorder

TEMPLATES = ("/healthz", "/messages/:id", UNMATCHED)
SERVED = {"/healthz": (Method.GET,), "/messages/:id": (Method.GET, Method.HEAD)}
TARGETS = ("shop.orders:on_order", "shop.stock:on_stock")

RECORDERS: Mapping[str, type[Recorder]] = {
    name: type(value)
    for name, value in vars(Telemetry(routes=[RouteLabel(UNMATCHED)], adapter=None)).items()
    if isinstance(value, Recorder)
}
ASKING = {"first_of_series", "metric_families", "render", "use_targets"}
"""Methods that the service calls for itself and that record no event."""


def methods_of(recorder: type[Recorder]) -> dict[str, Callable[..., object]]:
    """Return the methods that record, as they are declared."""
    return {
        name: member.describe if isinstance(member, Event) else member
        for name, member in getmembers_static(recorder)
        if not name.startswith("_") and name not in ASKING
    }


def types_of(method: Callable[..., object]) -> dict[str, object]:
    """Return the types of the parameters by their names; `object` for one without a hint."""
    hints = get_type_hints(method)
    return {name: hints.get(name, object) for name in list(signature(method).parameters)[1:]}


RECORDING: Mapping[str, tuple[Any, ...]] = {
    f"{flow}.{name}": tuple(types_of(method).values())
    for flow, recorder in RECORDERS.items()
    for name, method in methods_of(recorder).items()
}
"""Every recording method, with the types of its arguments."""


def record(telemetry: Telemetry, name: str, arguments: Iterable[object]) -> None:
    attrgetter(name)(telemetry)(*arguments)


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

    def record(self, name: str, arguments: Iterable[object]) -> None:
        getattr(self, name.replace(".", "_"))(*arguments)

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

    def webhooks_update(self, kind: UpdateKind, outcome: Outcome, count: int) -> None:
        self.add("webhook_normalization_total", count, update_kind=kind, outcome=outcome)

    def webhooks_rejected(self, reason: RejectionReason, count: int) -> None:
        self.add("wats_webhook_rejections_total", count, reason=reason)

    def webhooks_lag(self, seconds: float) -> None:
        self.observe("wats_webhook_lag_seconds", seconds, LAG_BUCKETS)

    def webhooks_dispatched(self, target: int, _: UpdateKind, outcome: Outcome, __: float) -> None:
        name = TARGETS[target] if target < len(TARGETS) else "other"
        self.add("wats_dispatch_total", target=name, outcome=outcome)

    def webhooks_consumer_lag(self, target: int, seconds: float) -> None:
        name = TARGETS[target] if target < len(TARGETS) else "other"
        self.observe("wats_consumer_lag_seconds", seconds, CONSUMER_BUCKETS, target=name)

    def webhooks_consumer_oldest_age(self, target: int, seconds: float) -> None:
        name = TARGETS[target] if target < len(TARGETS) else "other"
        self.set("wats_consumer_oldest_age_seconds", seconds, target=name)

    def webhooks_circuit_open(self, target: int, is_open: int) -> None:
        name = TARGETS[target] if target < len(TARGETS) else "other"
        self.set("wats_circuit_open", is_open, target=name)

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

    def graph_error(self, category: ErrorCategory, count: int) -> None:
        known = "unknown" if category is ErrorCategory.NONE else category
        self.add("wats_graph_errors_total", count, error_category=known)

    def messages_send_outcome(self, family: EndpointFamily, outcome: Outcome, count: int) -> None:
        self.add("send_outcomes_total", count, endpoint_family=family, outcome=outcome)

    def messages_final_status(
        self, outcome: FinalOutcome, category: ErrorCategory, count: int
    ) -> None:
        failed = "unknown" if category is ErrorCategory.NONE else category
        known = failed if outcome is FinalOutcome.FAILED else "none"
        self.add("wats_messages_final_total", count, outcome=outcome, error_category=known)

    def messages_delivered(self, seconds: float) -> None:
        self.observe("wats_message_delivery_seconds", seconds, LAG_BUCKETS)

    def http_auth_failure(self, surface: AuthSurface, count: int) -> None:
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

    def store_inbox_depth(self, state: InboxState, count: int) -> None:
        self.set("wats_inbox_depth", count, state=state)

    def store_inbox_oldest_age(self, seconds: float) -> None:
        self.set("wats_inbox_oldest_age_seconds", seconds)

    def store_outbox_processed(self, outcome: Outcome, count: int = 1) -> None:
        self.add("outbox_processed_total", count, outcome=outcome)

    def store_outbox_depth(self, adapter: Adapter, state: OutboxState, count: int) -> None:
        shown = adapter if adapter is Adapter.SQLITE else Adapter.UNKNOWN
        self.set("outbox_depth", count, adapter=shown, state=state)

    def store_outbox_oldest_age(self, seconds: float) -> None:
        self.set("wats_outbox_oldest_age_seconds", seconds)

    def store_outbox_fill(self, ratio: float) -> None:
        self.set("wats_outbox_fill_ratio", ratio)

    def store_outbox_paused(self, value: int) -> None:
        self.set("wats_outbox_paused", value)

    def service_upkeep(self, task: UpkeepTask, succeeded_at: float) -> None:
        self.set("wats_upkeep_last_success_timestamp_seconds", succeeded_at, task=task)

    def service_worker_replaced(self, count: int = 1) -> None:
        self.add("wats_worker_replacements_total", count)

    def service_event(self, what: LifecycleEvent) -> None:
        pass
