"""The log of the actions of operators."""

from typing import Literal, TypeAlias

from wats.web.parts import Parts

Action: TypeAlias = Literal[
    "consumer_paused",
    "consumer_resumed",
    "content_shown",
    "deliveries_retried",
    "deliveries_replayed",
    "deliveries_discarded",
    "outbox_retried",
    "outbox_discarded",
    "erasure_started",
    "erasure_finished",
]
"""The actions of operators that are logged."""


def log_action(parts: Parts, action: Action, count: int) -> None:
    """Log what an operator did, to how many deliveries or rows; never to which."""
    parts.log({"event": "wats.admin.action", "action": action, "count": count})
