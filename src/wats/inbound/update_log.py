"""The log of received updates, which an operator can switch on: kinds and outcomes only. No I/O."""

import hashlib
from typing import Final, Literal, TypeAlias

from wats.inbound.updates import Update
from wats.log import Log
from wats.privacy import Secret

Fate: TypeAlias = Literal["accepted", "deduped", "success", "error"]
"""The outcome of an update: stored, or a redelivery; without a store that of its handlers."""

_ID_BYTES: Final = 6


class UpdateLog:
    """Logs each received update once, with an id that no reader can compute from Meta's ids.

    A redelivery has the same id, also in another process, so lines can be correlated.

    Args:
        secret: The key of the ids.
    """

    def __init__(self, log: Log, secret: Secret) -> None:
        self._log = log
        self._key = hashlib.sha256(secret.reveal().encode()).digest()

    def record(self, update: Update, outcome: Fate) -> None:
        """Log *update* with its *outcome*."""
        keyed = hashlib.blake2b(update.key.encode(), key=self._key, digest_size=_ID_BYTES)
        self._log(
            {
                "event": "wats.webhook.update",
                "kind": update.kind.value,
                "outcome": outcome,
                "updateId": keyed.hexdigest(),
            }
        )
