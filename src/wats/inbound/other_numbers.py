"""Updates of business numbers that are not configured: store, ignore or refuse them. No I/O."""

from collections import Counter
from collections.abc import Collection
from http import HTTPStatus

from wats.config import OtherNumbers
from wats.errors import WebhookRefused
from wats.inbound.normalize import Normalized
from wats.inbound.updates import Update
from wats.log import Log
from wats.telemetry.repeats import Repeats


class NumberFilter:
    """Separates the updates of configured numbers from those of other numbers.

    Args:
        numbers: The phone number ids that are configured.
        policy: `store`, `ignore` or `refuse`.
        log: Receives one event per interval.
    """

    def __init__(self, numbers: Collection[str], policy: OtherNumbers, log: Log) -> None:
        self._numbers = frozenset(numbers)
        self._policy = policy
        self._log = log
        self._repeats = Repeats()

    def admit(self, found: Normalized) -> tuple[Normalized, WebhookRefused | None]:
        """Return *found* without the updates to ignore or refuse, and the refusal if there is one.

        Ignored updates count as skipped. A webhook that is refused for some of its updates is sent
        again by Meta, and its other updates are then redeliveries.
        """
        others = [update.kind for update in found.updates if self._is_other(update)]
        if not others:
            return found, None
        self._report()
        if self._policy == "store":
            return found, None
        kept = [update for update in found.updates if not self._is_other(update)]
        if self._policy == "refuse":
            return Normalized(kept, found.skips, found.skipped), _refusal()
        skipped = Counter(found.skipped) + Counter(others)
        return Normalized(kept, found.skips, skipped), None

    def _is_other(self, update: Update) -> bool:
        number = update.phone_number_id
        return number is not None and number not in self._numbers

    def _report(self) -> None:
        suppressed = self._repeats.admit(self._policy)
        if suppressed is not None:
            self._log(
                {
                    "event": "wats.number.unknown",
                    "policy": self._policy,
                    "suppressed": suppressed,
                }
            )


def _refusal() -> WebhookRefused:
    reason = "The webhook has an update of a number that is not configured."
    return WebhookRefused("unknown_number", reason, HTTPStatus.FORBIDDEN)
