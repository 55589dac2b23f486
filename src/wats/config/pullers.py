"""The section of a puller: an application that polls for its updates. No I/O."""

from dataclasses import dataclass, field
from typing import Final

from wats.config import checks
from wats.config.checks import key
from wats.config.subscribers import kinds_key, numbers_key

CODE: Final = "invalid_pullers"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullerConfig:
    """A consumer whose updates are kept until an application polls for them."""

    name: str = field(
        metadata=key(
            checks.short_name,
            CODE,
            "The name of the puller, which its polls state and which identifies its deliveries in "
            "the database. Change it only while it has none.",
        )
    )
    kinds: tuple[str, ...] = field(default=(), metadata=kinds_key("puller", CODE))
    numbers: tuple[str, ...] = field(default=(), metadata=numbers_key("puller", CODE))
    lease_seconds: float = field(
        default=60.0,
        metadata=key(
            checks.number(1, 3600),
            CODE,
            "How long a poll keeps its updates from other polls. An update that is not "
            "acknowledged in this time is returned again.",
        ),
    )
    max_attempts: int | None = field(
        default=None,
        metadata=key(
            checks.whole(1, 1000),
            CODE,
            "The number of attempts after which an update becomes a dead letter; by default "
            "`inbox.maxAttempts`.",
        ),
    )
