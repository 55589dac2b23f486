"""Which of the service's paths may not meet. No I/O."""

from typing import Final

STATIC_PATHS: Final = frozenset(
    {"/healthz", "/readyz", "/status", "/metrics", "/debug/diagnostics", "/openapi.json"}
)
"""The paths that the service has whatever is configured."""

API_ROOTS: Final = ("messages", "conversations", "groups")
"""What stands below the API prefix. It is all reserved, switched on or not."""


def webhook_collides(webhook_path: str, api_prefix: str) -> bool:
    """Tell whether the webhook would hide a route of the service, or be hidden by one."""
    roots = tuple(f"{api_prefix}/{root}/" for root in API_ROOTS)
    is_taken = webhook_path in STATIC_PATHS or webhook_path == api_prefix
    return is_taken or f"{webhook_path}/".startswith(roots)


def prefix_collides(api_prefix: str) -> bool:
    """Tell whether the API would stand below a path that means something else."""
    return api_prefix in STATIC_PATHS
