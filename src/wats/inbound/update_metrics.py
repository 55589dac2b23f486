"""Metrics of new updates: their lag, and the final status of our messages."""

from datetime import datetime

from wats.clock import EPOCH
from wats.graph.errors import find_rule
from wats.inbound.updates import Update
from wats.store.records import StatusRecord
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import ErrorCategory, FinalOutcome, UpdateKind

_PUNCTUAL = frozenset({UpdateKind.MESSAGE, UpdateKind.STATUS})
"""Kinds that Meta sends immediately. History, for example, is old on arrival."""

_FINAL = {outcome.value: outcome for outcome in FinalOutcome}


class UpdateMetrics:
    """Records the lag and the final status of new updates.

    It is used only if `Telemetry.wants_update_metrics`.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def report(
        self, update: Update, status: StatusRecord | None, sent_at: datetime | None = None
    ) -> None:
        """Record *update*; *status* is its transition, *sent_at* the send time of its message."""
        if update.kind in _PUNCTUAL and update.occurred_at != EPOCH:
            lag = update.received_at - update.occurred_at
            self._telemetry.webhooks.lag(lag.total_seconds())
        if status is None:
            return
        outcome = _FINAL.get(status.status)
        if outcome is not None:
            rule = find_rule(status.error_code)
            category = ErrorCategory.UNKNOWN if rule is None else rule.category
            self._telemetry.messages.final_status(outcome, category)
        if sent_at is not None:
            self._telemetry.messages.delivered((status.occurred_at - sent_at).total_seconds())
