"""The section of the outbox. No I/O."""

from dataclasses import dataclass, field

from wats.config import checks
from wats.config.checks import key


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxConfig:
    """The messages that are sent later, with `Prefer: respond-async`."""

    concurrency: int = field(
        default=32,
        metadata=key(
            checks.whole(1, 1024),
            "invalid_outbox",
            "The maximum number of concurrent sends from the outbox per process.",
        ),
    )
    max_attempts: int = field(
        default=10,
        metadata=key(
            checks.whole(1, 1000),
            "invalid_outbox",
            "The number of attempts before a message that was certainly not sent is failed.",
        ),
    )
    max_age_hours: float = field(
        default=24.0,
        metadata=key(
            checks.number(0, 720),
            "invalid_outbox",
            "The age at which a message that was certainly not sent is not retried any more.",
        ),
    )
    max_waiting: int = field(
        default=100_000,
        metadata=key(
            checks.whole(1, 10_000_000),
            "invalid_outbox",
            "The number of waiting messages from which on further ones are refused.",
        ),
    )
