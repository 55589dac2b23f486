"""What operators are told of new updates: how late they are, and how far our messages came."""

from datetime import datetime

from wats.clock import EPOCH
from wats.graph.errors import find_rule
from wats.inbound.updates import Update
from wats.store.records import StatusRecord
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import ErrorCategory, FinalOutcome, UpdateKind

_PUNCTUAL = frozenset({UpdateKind.MESSAGE, UpdateKind.STATUS})
"""Kinds that Meta sends at once. History, say, is old when it comes."""

_FINAL = {outcome.value: outcome for outcome in FinalOutcome}


class News:
    """Tells telemetry of updates that were not known before."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def tell(
        self, update: Update, status: StatusRecord | None, sent_at: datetime | None = None
    ) -> None:
        """Tell of *update*; *status* is the transition in it, *sent_at* when its message left."""
        if not self._telemetry.wants_news:
            return
        if update.kind in _PUNCTUAL and update.occurred_at != EPOCH:
            lag = update.received_at - update.occurred_at
            self._telemetry.webhook_lag(lag.total_seconds())
        if status is None:
            return
        outcome = _FINAL.get(status.status)
        if outcome is not None:
            rule = find_rule(status.error_code)
            category = ErrorCategory.UNKNOWN if rule is None else rule.category
            self._telemetry.message_final(outcome, category)
        if sent_at is not None:
            self._telemetry.message_delivered((status.occurred_at - sent_at).total_seconds())
