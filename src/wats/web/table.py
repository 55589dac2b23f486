"""The one table of routes.

The table gives the router, the `route` label of the metrics, the inventory of `/status`, the
OpenAPI document and the posture towards unauthenticated clients. A route outside the table cannot
be served, and a route in it is included everywhere.
"""

from wats.config import Profile
from wats.web import webhooks
from wats.web.api import (
    conversations,
    graph,
    groups,
    marketing_messages,
    media,
    message_records,
    messages,
    updates,
)
from wats.web.api import outbox as sent_later
from wats.web.ops import consumers, deliveries, erasures, health, metrics, outbox, status
from wats.web.routing import Route


def route_table(profile: Profile, *, groups_enabled: bool) -> tuple[Route, ...]:
    """Return every route of a service with *profile*, in the order of its inventory."""
    prefix = profile.service.api_prefix
    table = (
        *health.routes(),
        status.status_route(),
        metrics.route(),
        status.diagnostics_route(),
        webhooks.route(profile.webhook.path),
        *messages.routes(prefix),
        *sent_later.routes(prefix),
        *conversations.routes(prefix),
        *marketing_messages.routes(prefix),
        *media.routes(prefix),
        *graph.routes(prefix),
        *updates.routes(prefix),
    )
    with_groups = (*table, *groups.routes(prefix)) if groups_enabled else table
    # Last, so that they take as long as a path that does not exist.
    admin = f"{prefix}/admin"
    return (
        *with_groups,
        *consumers.routes(admin),
        *deliveries.routes(admin),
        *message_records.routes(admin),
        *outbox.routes(admin),
        *erasures.routes(admin),
    )
