"""The interface of telemetry to the rest of wats: a recorder for each flow, and the exposition."""

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

from wats.clock import Now, utc_now
from wats.log import Log, write_json_line
from wats.telemetry.contract.families import (
    BUILD_INFO,
    CONSUMER_LAG,
    SINK_FAILURES,
    WORKER_PROCESSES,
    families_of,
)
from wats.telemetry.contract.labels import (
    MAX_TARGETS,
    OTHER_TARGET,
    TARGET_NAME,
    UNKNOWN_VERSION,
    Subjects,
)
from wats.telemetry.contract.values import UNMATCHED, Adapter, FamilySet, Kind, RouteLabel
from wats.telemetry.metrics.exposition import Exposition, Rendered
from wats.telemetry.metrics.series import Registry
from wats.telemetry.metrics.shared_memory import Board
from wats.telemetry.recent_errors import ErrorLedger
from wats.telemetry.recorders import (
    GraphRecorder,
    HttpRecorder,
    MessageRecorder,
    ServiceRecorder,
    StoreRecorder,
    WebhookRecorder,
)
from wats.telemetry.recording import Destination
from wats.telemetry.sinks.isolation import (
    FailureLog,
    IsolatedSink,
    TelemetrySink,
)
from wats.telemetry.spans import Tracer
from wats.version import __version__

_VERSION: Final = re.compile(r"\d{1,4}(\.\d{1,4}){2}((a|b|rc|\.dev)\d{1,4})?", re.ASCII)
_GRAPH_VERSION: Final = re.compile(r"v\d{1,3}\.\d{1,3}", re.ASCII)


class Telemetry:
    """Records the events of the rest of wats, each flow with a recorder of its own.

    No recording method raises, for any argument and any failure of the sink. A value outside a
    closed list is recorded as `unknown`, where the list has none as `error`; a duration that is
    negative, infinite or not a number, as 0. A family that is not of the chosen set, or has no
    subject, is neither recorded nor passed to the sink.

    Attributes:
        http: Requests, and their credentials.
        webhooks: Webhooks, and their updates until the last consumer has handled them.
        graph: Calls of the Graph API.
        messages: Messages to customers, from the attempt to send until the final status.
        store: Operations of the store, and the inbox in it.
        service: The life of the service, and its upkeep.
        errors: The errors seen recently, by class name.
        wants_update_metrics: Whether the lag of webhooks and final statuses are exposed, or passed
            to a sink.
        tracer: Starts the spans of requests and handlers, if the sink receives spans.

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

        templates = _checked_templates(routes)
        self.wants_update_metrics = families is FamilySet.OPERATOR
        self._families = families_of(families)
        self._subjects = Subjects(
            routes=tuple(routes),
            adapter=adapter,
            version=_if_matches(_VERSION, __version__),
            graph_api_version=_if_matches(_GRAPH_VERSION, graph_api_version),
        )
        self._board = Board() if board is None else board
        self._row = row
        self._shown: Sequence[str] = ()
        isolated = (
            None
            if sink is None
            else IsolatedSink(sink, failures("wats.telemetry.sink.error"), self._sink_failed)
        )
        self.tracer = Tracer(isolated.start_span) if isolated and isolated.takes_spans else None
        self._destination = Destination(
            registry=self._expose(),
            sink=isolated,
            tracer=self.tracer,
            failures=failures("wats.telemetry.error"),
            now=now,
        )
        self.errors = ErrorLedger(error_names, board=self._board, row=row)
        self.http = HttpRecorder(self._destination, templates)
        self.webhooks = WebhookRecorder(self._destination)
        self.graph = GraphRecorder(self._destination)
        self.messages = MessageRecorder(self._destination)
        self.service = ServiceRecorder(self._destination)
        self.store = StoreRecorder(self._destination, self.service)

    def use_targets(self, names: Sequence[str]) -> None:
        """Set the names of the consumers; once, when handlers are frozen.

        `webhooks.dispatched` takes an index in *names*. The first 31 names become label values. The
        others are `other`, and so is a name that could not be the name of code, or holds as many
        consecutive digits as a phone number.
        """
        known = dict.fromkeys(name for name in names if TARGET_NAME.fullmatch(name))
        known.pop(OTHER_TARGET, None)
        targets = tuple(known)[:MAX_TARGETS]
        self._subjects = replace(self._subjects, targets=targets)
        self._destination.registry = self._expose()
        self._shown = [name if name in targets else OTHER_TARGET for name in names]
        self.webhooks.use_targets(self._shown)

    def first_of_series(self, target: int) -> int:
        """Return the index of the first consumer that has the same series as *target*."""
        return self._shown.index(self._shown[target])

    def _expose(self) -> Registry:
        """Find the slots of all series."""
        registry = Registry(self._families, self._subjects, board=self._board, row=self._row)
        self._exposition = Exposition(registry)
        return registry

    def _sink_failed(self, method: str) -> None:
        # The sink does not receive its own failure, since it would fail at that as well.
        registry = self._destination.registry
        block = registry.block(SINK_FAILURES)
        if block is not None:
            registry.slots[block.places[(method,)]] += 1.0

    @property
    def shows_lag(self) -> bool:
        """Whether the lag of consumers is exposed or passed on, so that it is worth measuring."""
        return self._destination.registry.block(CONSUMER_LAG) is not None

    @property
    def budget(self) -> int:
        """The most series that this service can ever expose."""
        return self._destination.registry.budget

    def render(self, accept: str | None = None, accept_encoding: str | None = None) -> Rendered:
        """Return the exposition of all workers, in the form that these headers request."""
        registry = self._destination.registry
        for family, value in ((WORKER_PROCESSES, self._board.workers), (BUILD_INFO, 1)):
            block = registry.block(family)
            for slot in block.places.values() if block is not None else ():
                registry.gauges[slot] = value
        return self._exposition.render(accept, accept_encoding)

    def metric_families(self) -> tuple[str, ...]:
        """Return the names that can be exposed: counters, then histograms, then gauges."""
        kinds = list(Kind)
        ordered = sorted(self._families, key=lambda family: kinds.index(family.kind))
        return tuple(family.name for family in ordered)


def _if_matches(pattern: re.Pattern[str], text: str) -> str:
    return text if pattern.fullmatch(text) else UNKNOWN_VERSION


def _checked_templates(routes: Sequence[RouteLabel]) -> tuple[str, ...]:
    templates = tuple(route.template for route in routes)
    if not templates or templates[-1] != UNMATCHED or len(set(templates)) < len(templates):
        msg = f"Routes must have templates of their own, and end with '{UNMATCHED}'."
        raise ValueError(msg)
    return templates
