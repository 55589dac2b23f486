"""A client of the admin routes of a running service. Blocking."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from wats.inspection.answer import Answer
from wats.inspection.client import NoAnswer, Remote
from wats.inspection.formatting import printable
from wats.privacy import Secret
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
from wats.web.ops.status import ServiceStatus
from wats.web.problems import ErrorEnvelope

B = TypeVar("B")

_LABEL: Final = "/admin"
_PAGE: Final = 100
_UNREADABLE: Final = (ValueError, RecursionError, msgspec.MsgspecError)


class Admin:
    """The admin routes of the service of *remote*, found in the list of its routes.

    Every method raises `NoAnswer` if the service does not do what was asked.
    """

    def __init__(self, remote: Remote, token: Secret) -> None:
        self._remote = remote
        self._token = token
        status = self._read(remote.get("/status", token), ServiceStatus)
        found = [label for label in status.routes if label.endswith(_LABEL)]
        if not found:
            msg = f"{remote.url} is an earlier version of wats, without admin routes."
            raise NoAnswer(msg)
        self._path = found[0]

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
        cursor: str | None = "0"
        while cursor is not None:
            page = self.page({**query, "limit": str(_PAGE), "cursor": cursor})
            yield from page.items
            cursor = page.next_cursor

    def delivery(self, delivery_id: str, *, with_content: bool = False) -> DeliveryDetails:
        """Return one delivery."""
        query = "?content=true" if with_content else ""
        return self._get(f"/deliveries/{quote(delivery_id, safe='')}{query}", DeliveryDetails)

    def change(self, verb: str, ids: Sequence[str]) -> int:
        """Retry or discard the deliveries *ids*; return the number of changed ones."""
        changed = 0
        for first in range(0, len(ids), MAX_IDS):
            body = {"ids": ids[first : first + MAX_IDS]}
            changed += self._post(f"/deliveries/{verb}", body, ChangedCount).changed
        return changed

    def outbox_page(self, query: Mapping[str, str]) -> OutboxList:
        """Return a page of the outbox."""
        return self._get(f"/outbox?{urlencode(query)}", OutboxList)

    def outbox_items(self, query: Mapping[str, str]) -> Iterator[OutboxView]:
        """Yield all items of the outbox for *query*, page by page."""
        cursor: str | None = "0"
        while cursor is not None:
            page = self.outbox_page({**query, "limit": str(_PAGE), "cursor": cursor})
            yield from page.items
            cursor = page.next_cursor

    def outbox_item(self, outbox_id: str, *, with_content: bool = False) -> OutboxDetails:
        """Return one item of the outbox."""
        query = "?content=true" if with_content else ""
        return self._get(f"/outbox/{quote(outbox_id, safe='')}{query}", OutboxDetails)

    def change_outbox(self, verb: str, ids: Sequence[str], **options: bool) -> int:
        """Retry or discard the items *ids*; return the number of changed ones."""
        changed = 0
        for first in range(0, len(ids), MAX_IDS):
            body = {"ids": ids[first : first + MAX_IDS], **options}
            changed += self._post(f"/outbox/{verb}", body, ChangedCount).changed
        return changed

    def erase(self, user: str, *, dry_run: bool) -> tuple[str, ErasedCounts]:
        """Erase the data of *user* or count it, in as many requests as are needed.

        Returns:
            The digest of the user, and the numbers of rows.
        """
        total = dict.fromkeys(ErasedCounts.__struct_fields__, 0)
        cursor = None
        while True:
            body = {"user": user, "dryRun": dry_run, "cursor": cursor}
            found = self._post("/erasures", body, ErasureView)
            for name in total:
                total[name] += getattr(found.counts, name)
            cursor = found.next_cursor
            if cursor is None:
                return found.subject, ErasedCounts(**total)

    def _get(self, path: str, body_type: type[B]) -> B:
        return self._read(self._remote.get(self._path + path, self._token), body_type)

    def _post(self, path: str, body: object, body_type: type[B]) -> B:
        encoded = msgspec.json.encode(body)
        return self._read(self._remote.post(self._path + path, self._token, encoded), body_type)

    def _read(self, answer: Answer, body_type: type[B]) -> B:
        try:
            if answer.status == 200:
                return msgspec.json.decode(answer.body, type=body_type)
            error = msgspec.json.decode(answer.body, type=ErrorEnvelope).error
        except _UNREADABLE:
            msg = f"{self._remote.url} sends a response that is not from wats."
            raise NoAnswer(msg) from None
        if error.code == "not_found":
            msg = f"{self._remote.url} responds with 404: not a service token, or not wats."
            raise NoAnswer(msg)
        raise NoAnswer(f"{printable(error.message)} [{printable(error.code)}]")
