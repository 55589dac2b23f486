"""Write the Grafana dashboard: one panel or more for every metric family.

Names, labels, kinds and HELP texts are read from the table that also defines the exposition. This
module adds the row of each family and the labels to group by; a family without a row is in the last
one, grouped by all its labels. Run `.venv/bin/python operators/generate.py` after a change.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wats.telemetry.contract.families import (
    AUTH_FAILURES,
    BUILD_INFO,
    CIRCUIT_OPEN,
    CONSUMER_LAG,
    CONSUMER_OLDEST_AGE,
    DISPATCHES,
    FAMILIES,
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
    SERIES,
    SINK_FAILURES,
    STORE_DURATION,
    UPKEEP_SUCCESS,
    WEBHOOK_LAG,
    WEBHOOK_NORMALIZATION,
    WEBHOOK_REJECTIONS,
    WORKER_PROCESSES,
    WORKER_REPLACEMENTS,
    Family,
)
from wats.telemetry.contract.labels import Subject
from wats.telemetry.contract.values import FamilySet, Kind

DASHBOARD = Path(__file__).with_name("dashboard.json")

COLUMNS = 24
GRAPH_WIDTH, GRAPH_HEIGHT = 8, 7
STAT_WIDTH, STAT_HEIGHT = 4, 4

SELECTED = 'job="$job",instance=~"$instance"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
QUANTILES = (0.5, 0.95, 0.99)


def _selected(*matchers: str) -> str:
    return f"{{{','.join((SELECTED, *matchers))}}}"


@dataclass(frozen=True)
class Graph:
    """A family over time, one line per value of the labels *by*, filtered by *only*."""

    title: str
    family: Family
    by: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def queries(self) -> Iterator[tuple[str, str]]:
        """Yield each query with the legend of its lines."""
        legend = " ".join(f"{{{{{label}}}}}" for label in self.by)
        name, by, selected = self.family.name, ", ".join(self.by), _selected(*self.only)
        match self.family.kind:
            case Kind.COUNTER:
                yield f"sum by ({by}) (rate({name}{selected}[$__rate_interval]))", legend
            case Kind.GAUGE if name.endswith("_timestamp_seconds"):
                # 0 means that there was none yet, and would be shown as half a century.
                yield f"time() - min by ({by}) ({name}{selected} > 0)", legend
            case Kind.GAUGE:
                how = "max" if name.endswith("_seconds") else "sum"
                yield f"{how} by ({by}) ({name}{selected})", legend
            case Kind.HISTOGRAM:
                bounds = ", ".join((*self.by, "le"))
                rates = f"sum by ({bounds}) (rate({name}_bucket{selected}[$__rate_interval]))"
                # More than one quantile per label value would be unreadable.
                for share in QUANTILES[-1:] if self.by else QUANTILES:
                    yield f"histogram_quantile({share}, {rates})", f"p{share * 100:g} {legend}"

    @property
    def unit(self) -> str:
        """The unit, by Grafana's name."""
        if self.family.kind is Kind.COUNTER:
            return "cps"
        return "s" if self.family.name.endswith("_seconds") else "short"

    @property
    def description(self) -> str:
        """The HELP text of the family, and its requirements."""
        family = self.family
        needs = _OPERATOR if family.set is FamilySet.OPERATOR else ""
        parts = (f"{family.name}: {family.help}", _NEEDS[family.needs], needs)
        return " ".join(filter(None, parts))


_NEEDS: Mapping[Subject, str] = {
    Subject.ALWAYS: "",
    Subject.STORE: "Needs a store.",
}
_OPERATOR = "Needs `telemetry.families: operator`."

ROWS: Mapping[str, Sequence[Graph]] = {
    "Requests": (
        Graph("Requests by route", HTTP_REQUESTS, ("route",)),
        Graph("Requests by status", HTTP_REQUESTS, ("method", "status_class")),
        Graph("Latency by route", HTTP_REQUEST_DURATION, ("route",)),
    ),
    "Webhooks": (
        Graph("Updates by kind", WEBHOOK_NORMALIZATION, ("update_kind",)),
        Graph("Updates by outcome", WEBHOOK_NORMALIZATION, ("outcome",)),
        Graph("Webhook lag", WEBHOOK_LAG),
        Graph("Rejected webhooks", WEBHOOK_REJECTIONS, ("reason",)),
    ),
    "Consumers": (
        Graph("Delivery attempts", DISPATCHES, ("target", "outcome")),
        Graph("Inbox depth", INBOX_DEPTH, ("instance", "state")),
        Graph("Oldest pending update", INBOX_OLDEST_AGE, ("instance",)),
        Graph("Oldest pending update by consumer", CONSUMER_OLDEST_AGE, ("target",)),
        Graph("Consumer lag", CONSUMER_LAG, ("target",)),
        Graph("Open circuits", CIRCUIT_OPEN, ("target",)),
    ),
    "Messages": (
        Graph("Sends", SEND_OUTCOMES, ("endpoint_family", "outcome")),
        Graph("Delivery outcomes", MESSAGES_FINAL, ("outcome",)),
        Graph(
            "Failed messages by error category",
            MESSAGES_FINAL,
            ("error_category",),
            ('outcome="failed"',),
        ),
        Graph("Delivery latency", MESSAGE_DELIVERY),
    ),
    "Graph": (
        Graph("Calls", GRAPH_OPERATIONS, ("endpoint_family", "status_class")),
        Graph("Errors by category", GRAPH_ERRORS, ("error_category",)),
        Graph("Call latency", GRAPH_DURATION, ("endpoint_family",)),
    ),
    "Store": (
        Graph("Operations", PERSISTENCE_OPERATIONS, ("adapter", "outcome")),
        Graph("Latency by operation", STORE_DURATION, ("operation",)),
        Graph("Time since last upkeep success", UPKEEP_SUCCESS, ("task",)),
    ),
    "Outbox": (
        Graph("Items processed", OUTBOX_PROCESSED, ("outcome",)),
        Graph("Outbox depth", OUTBOX_DEPTH, ("instance", "state")),
        Graph("Pending items, per permitted one", OUTBOX_FILL, ("instance",)),
        Graph("Oldest pending item", OUTBOX_OLDEST_AGE, ("instance",)),
        Graph("Paused outboxes", OUTBOX_PAUSED, ("instance",)),
    ),
    "Service": (
        Graph("Authentication failures", AUTH_FAILURES, ("surface",)),
        Graph("Sink failures", SINK_FAILURES, ("method",)),
        Graph("Worker processes", WORKER_PROCESSES, ("instance",)),
        Graph("Replaced worker processes", WORKER_REPLACEMENTS, ("instance",)),
        Graph("Versions", BUILD_INFO, ("version", "graph_api_version")),
        Graph("Series", SERIES, ("kind",)),
    ),
}
"""The graphs of each row."""


@dataclass(frozen=True)
class Stat:
    """A number in the top row, red at or above *alarm*."""

    title: str
    query: str
    unit: str
    alarm: float | None = None


def _rate(family: Family, *matchers: str) -> str:
    return f"sum(rate({family.name}{_selected(*matchers)}[$__rate_interval]))"


_FAILED = _rate(HTTP_REQUESTS, 'status_class="5xx"')

STATS = (
    Stat("Reachable services", f"sum(up{_selected()})", "short"),
    Stat("Requests", _rate(HTTP_REQUESTS), "cps"),
    Stat("Failed requests", f"{_FAILED} / {_rate(HTTP_REQUESTS)}", "percentunit", 0.05),
    Stat("Webhooks", _rate(HTTP_REQUESTS, 'route="/webhook"'), "cps"),
    Stat("Messages sent", _rate(SEND_OUTCOMES, 'outcome="success"'), "cps"),
    Stat("Oldest pending update", f"max({INBOX_OLDEST_AGE.name}{_selected()})", "s", 300),
)
"""The top row."""


def dashboard(rows: Mapping[str, Sequence[Graph]] = ROWS) -> dict[str, Any]:
    """Return the dashboard in Grafana's format, with the graphs of *rows*.

    Raises:
        ValueError: A graph uses a label that its family lacks.
    """
    _check(rows)
    return {
        "uid": "wats",
        "title": "wats",
        "tags": ["wats"],
        "description": "WhatsApp Business Cloud API gateway. Made by operators/generate.py.",
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "panels": [
            {"id": number, **panel}
            for number, panel in enumerate((*_stats(), *_rows(rows)), start=1)
        ],
    }


def _graphs(rows: Mapping[str, Sequence[Graph]]) -> list[Graph]:
    return [graph for row in rows.values() for graph in row]


def _all_rows(rows: Mapping[str, Sequence[Graph]]) -> Mapping[str, Sequence[Graph]]:
    """Return *rows*, and a last one with the families that are in no row."""
    placed = {graph.family for graph in _graphs(rows)}
    others = [
        Graph(family.name, family, tuple(label.key for label in family.labels))
        for family in FAMILIES
        if family not in placed
    ]
    return {**rows, "Other": others} if others else rows


def _check(rows: Mapping[str, Sequence[Graph]]) -> None:
    for graph in _graphs(rows):
        known = {"instance", *(label.key for label in graph.family.labels)}
        if unknown := set(graph.by) - known:
            msg = f"{graph.family.name} has no {', '.join(sorted(unknown))}."
            raise ValueError(msg)


def _variables() -> Iterator[dict[str, Any]]:
    yield {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"}
    # A family that every wats service exposes, and no other service.
    family = WEBHOOK_NORMALIZATION.name
    several = {"multi": True, "includeAll": True, "allValue": ".+"}
    for name, query, more in (
        ("job", f"label_values({family}, job)", {}),
        ("instance", f'label_values({family}{{job="$job"}}, instance)', several),
    ):
        yield {
            "type": "query",
            "name": name,
            "datasource": SOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            **more,
        }


def _stats() -> Iterator[dict[str, Any]]:
    for place, stat in enumerate(STATS):
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if stat.alarm is not None:
            steps.append({"color": "red", "value": stat.alarm})
        defaults = {"unit": stat.unit, "thresholds": {"mode": "absolute", "steps": steps}}
        yield {
            "type": "stat",
            "title": stat.title,
            "datasource": SOURCE,
            "gridPos": _grid(place * STAT_WIDTH, 0, STAT_WIDTH, STAT_HEIGHT),
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": {
                "colorMode": "value",
                "graphMode": "area",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            },
            "targets": [_target(0, stat.query, stat.title)],
        }


def _rows(rows: Mapping[str, Sequence[Graph]]) -> Iterator[dict[str, Any]]:
    top = STAT_HEIGHT
    for title, graphs in _all_rows(rows).items():
        position = _grid(0, top, COLUMNS, 1)
        yield {"type": "row", "title": title, "collapsed": False, "gridPos": position, "panels": []}
        top += 1
        for place, graph in enumerate(graphs):
            line, column = divmod(place * GRAPH_WIDTH, COLUMNS)
            yield _graph(graph, column, top + line * GRAPH_HEIGHT)
        top += -(-len(graphs) * GRAPH_WIDTH // COLUMNS) * GRAPH_HEIGHT


def _graph(graph: Graph, column: int, top: int) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": graph.title,
        "description": graph.description,
        "datasource": SOURCE,
        "gridPos": _grid(column, top, GRAPH_WIDTH, GRAPH_HEIGHT),
        "fieldConfig": {
            "defaults": {"unit": graph.unit, "min": 0, "custom": {"fillOpacity": 10}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [_target(place, *each) for place, each in enumerate(graph.queries())],
    }


def _target(place: int, query: str, legend: str) -> dict[str, Any]:
    return {"refId": "ABC"[place], "datasource": SOURCE, "expr": query, "legendFormat": legend}


def _grid(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def render() -> str:
    """Return the content of the dashboard file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(render(), "utf-8")
