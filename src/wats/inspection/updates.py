"""A client of the routes of updates of a running service. Blocking."""

from collections.abc import Sequence
from urllib.parse import urlencode

from wats.inbound.pullers import Retry
from wats.inspection.client import Remote
from wats.inspection.routes import Routes
from wats.privacy import Secret
from wats.web.api.updates import PulledUpdates, UpdateAckViews


class UpdateRoutes(Routes):
    """The routes of updates.

    Every method raises `NoAnswer` if the service does not do what was asked.
    """

    def __init__(self, remote: Remote, token: Secret) -> None:
        super().__init__(remote, token, "/updates")

    def poll(self, consumer: str, *, kinds: Sequence[str], limit: int, wait: int) -> PulledUpdates:
        """Lease up to *limit* updates of *consumer*, of *kinds* if any; wait for the first one."""
        asked = {"consumer": consumer, "kinds": ",".join(kinds), "limit": limit, "wait": wait}
        query = urlencode(asked)
        return self._get(f"?{query}", PulledUpdates)

    def acknowledge(self, receipts: Sequence[str], retry: Retry = False) -> UpdateAckViews:
        """Settle the updates with *receipts*, all in the same way."""
        updates = [{"receipt": each, "retry": retry} for each in receipts]
        return self._post("/ack", {"updates": updates}, UpdateAckViews)
