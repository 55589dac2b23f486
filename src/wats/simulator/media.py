"""The files of the simulated Meta. No I/O."""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from wats.outbound.media import TYPES
from wats.simulator.faults import GraphFault, invalid, missing_object

MAX_KEPT_BYTES: Final = 256 * 1024 * 1024

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class StoredMedia:
    """A file of a number, and the tickets of its URLs with the time when each expires."""

    mime_type: str
    content: bytes = field(repr=False)
    number: str = ""
    tickets: dict[str, float] = field(default_factory=dict, repr=False)


class MediaFiles:
    """Files by id; the oldest are dropped when there are too many bytes.

    Args:
        url_seconds: How long a URL of a file is valid.
        now: The clock.
    """

    def __init__(self, url_seconds: float, now: Clock = time.monotonic) -> None:
        self._url_seconds = url_seconds
        self._now = now
        self._files: dict[str, StoredMedia] = {}

    def __contains__(self, media_id: object) -> bool:
        return media_id in self._files

    def __len__(self) -> int:
        return len(self._files)

    def add(self, content: bytes, mime_type: str, number: str = "") -> str:
        """Store a file of *number* and return its id.

        Raises:
            GraphFault: Graph would refuse the type or the size.
        """
        kind = TYPES.get(mime_type)
        if kind is None:
            raise invalid("Param file must be a file with one of the supported types.")
        if not content or len(content) > kind.max_bytes:
            raise GraphFault(400, 131053)
        media_id = str(secrets.randbelow(9 * 10**14) + 10**14)
        self._files[media_id] = StoredMedia(mime_type, content, number)
        while sum(len(each.content) for each in self._files.values()) > MAX_KEPT_BYTES:
            del self._files[next(iter(self._files))]
        return media_id

    def check_owner(self, media_id: str, number: str | None) -> None:
        """Refuse the file of another number than *number*, if it is given; a customer's has none.

        Raises:
            GraphFault: It is the file of another number.
        """
        if number is not None and self._file(media_id).number not in {"", number}:
            raise missing_object()

    def describe(self, media_id: str, base_url: str) -> dict[str, Any]:
        """Return the metadata of a file, with a new URL below *base_url*."""
        found = self._file(media_id)
        ticket = secrets.token_urlsafe(12)
        found.tickets[ticket] = self._now() + self._url_seconds
        return {
            "messaging_product": "whatsapp",
            "url": f"{base_url}/_media/{media_id}?ticket={ticket}",
            "mime_type": found.mime_type,
            "sha256": hashlib.sha256(found.content).hexdigest(),
            "file_size": str(len(found.content)),
            "id": media_id,
        }

    def open(self, media_id: str, ticket: str) -> StoredMedia:
        """Return the file of a URL.

        Raises:
            GraphFault: The URL has expired, or never existed.
        """
        found = self._files.get(media_id)
        if found is None or found.tickets.get(ticket, 0.0) < self._now():
            raise GraphFault(404, 100, details="The URL of the file has expired.")
        return found

    def delete(self, media_id: str) -> dict[str, Any]:
        """Delete a file."""
        self._file(media_id)
        del self._files[media_id]
        return {"success": True}

    def _file(self, media_id: str) -> StoredMedia:
        found = self._files.get(media_id)
        if found is None:
            raise missing_object()
        return found
