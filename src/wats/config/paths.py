"""Conflicts between the service's paths. No I/O."""

from typing import Final

STATIC_PATHS: Final = frozenset(
    {"/healthz", "/readyz", "/status", "/metrics", "/debug/diagnostics", "/openapi.json"}
)
"""The paths of the service that do not depend on the configuration."""

API_ROOTS: Final = ("messages", "conversations", "groups")
"""The paths below the API prefix. All are reserved, even those that are switched off."""


def webhook_collides(webhook_path: str, api_prefix: str) -> bool:
    """Return whether the webhook would hide a route of the service, or be hidden by one."""
    roots = tuple(f"{api_prefix}/{root}/" for root in API_ROOTS)
    is_taken = webhook_path in STATIC_PATHS or webhook_path == api_prefix
    return is_taken or f"{webhook_path}/".startswith(roots)


def prefix_collides(api_prefix: str) -> bool:
    """Return whether the API would be below a path with another meaning."""
    return api_prefix in STATIC_PATHS
