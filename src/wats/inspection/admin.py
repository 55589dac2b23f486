"""A client of the admin routes of a running service. Blocking."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from wats.inspection.client import Remote
from wats.inspection.paging import all_items
from wats.inspection.routes import Routes
from wats.privacy import Secret
from wats.web.api.message_records import MessageDetails, MessageList
from wats.web.ops.consumers import ConsumerList, PauseView
from wats.web.ops.deliveries import (
    MAX_IDS,
    ChangedCount,
    DeliveryDetails,
    DeliveryList,
    DeliveryView,
)
from wats.web.ops.erasures import ErasedCounts, ErasureView
from wats.web.ops.outbox import OutboxDetails, OutboxList, OutboxView


class Admin(Routes):
    """The admin routes."""

    def __init__(self, remote: Remote, token: Secret) -> None:
        super().__init__(remote, token, "/admin")

    def consumers(self) -> ConsumerList:
        """Return all consumers."""
        return self._get("/consumers", ConsumerList)

    def pause(self, name: str, *, is_paused: bool) -> PauseView:
        """Pause or resume the consumer *name*."""
        path = f"/consumers/{quote(name, safe='')}"
        return self._post(path, {"paused": is_paused}, PauseView)

    def page(self, query: Mapping[str, str]) -> DeliveryList:
        """Return a page of deliveries."""
        return self._get(f"/deliveries?{urlencode(query)}", DeliveryList)

    def deliveries(self, query: Mapping[str, str]) -> Iterator[DeliveryView]:
        """Yield all deliveries for *query*, page by page."""
        return all_items(self.page, query)

    def delivery(self, delivery_id: str, *, with_content: bool = False) -> DeliveryDetails:
        """Return one delivery."""
        return self._get(
            _path_of_one("deliveries", delivery_id, with_content=with_content), DeliveryDetails
        )

    def change(self, verb: str, ids: Sequence[str]) -> int:
        """Retry or discard the deliveries *ids*; return the number of changed ones."""
        return self._change(f"/deliveries/{verb}", ids)

    def replay(self, ids: Sequence[str], consumer: str) -> int:
        """Give the updates of the deliveries *ids* to *consumer* again; return their number."""
        return self._change("/deliveries/replay", ids, consumer=consumer)

    def outbox_page(self, query: Mapping[str, str]) -> OutboxList:
        """Return a page of the outbox."""
        return self._get(f"/outbox?{urlencode(query)}", OutboxList)

    def outbox_items(self, query: Mapping[str, str]) -> Iterator[OutboxView]:
        """Yield all items of the outbox for *query*, page by page."""
        return all_items(self.outbox_page, query)

    def outbox_item(self, outbox_id: str, *, with_content: bool = False) -> OutboxDetails:
        """Return one item of the outbox."""
        return self._get(
            _path_of_one("outbox", outbox_id, with_content=with_content), OutboxDetails
        )

    def change_outbox(self, verb: str, ids: Sequence[str], **options: bool) -> int:
        """Retry or discard the items *ids*; return the number of changed ones."""
        return self._change(f"/outbox/{verb}", ids, **options)

    def _change(self, path: str, ids: Sequence[str], **options: object) -> int:
        """Post *ids* in as many requests as are needed; return the number of changed ones."""
        changed = 0
        for first in range(0, len(ids), MAX_IDS):
            body = {"ids": ids[first : first + MAX_IDS], **options}
            changed += self._post(path, body, ChangedCount).changed
        return changed

    def messages(self, query: Mapping[str, str]) -> MessageList:
        """Return a page of messages."""
        return self._get(f"/messages?{urlencode(query)}", MessageList)

    def message(self, wa_message_id: str) -> MessageDetails:
        """Return one message with its statuses."""
        return self._get(f"/messages/{quote(wa_message_id, safe='')}", MessageDetails)

    def erase(
        self, user: str, *, dry_run: bool, search_files: bool = False
    ) -> tuple[str, ErasedCounts]:
        """Erase the data of *user* or count it, in as many requests as are needed.

        Returns:
            The digest of the user, and the numbers of rows.
        """
        total: dict[str, Any] = {}
        body: dict[str, object] = {"user": user, "dryRun": dry_run, "cursor": None}
        if search_files:  # earlier versions do not know the key
            body["searchFiles"] = True
        while True:
            found = self._post("/erasures", body, ErasureView)
            for name, count in msgspec.structs.asdict(found.counts).items():
                total[name] = None if count is None else count + (total.get(name) or 0)
            body["cursor"] = cursor = found.next_cursor
            if cursor is None:
                return found.subject, ErasedCounts(**total)


def _path_of_one(noun: str, id_: str, *, with_content: bool) -> str:
    return f"/{noun}/{quote(id_, safe='')}{'?content=true' if with_content else ''}"
