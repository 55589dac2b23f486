"""The groups of the simulated number, in memory. No I/O.

Creating, changing and deleting return a request id immediately and take effect immediately; the
webhook that reports the result follows, so a receiver has to match it by that id.
"""

import base64
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from wats.simulator.bodies import WebhookPart, group_part, webhook_error
from wats.simulator.faults import GraphFault, invalid, missing_object

LIFECYCLE: Final = "group_lifecycle_update"
PARTICIPANTS: Final = "group_participants_update"
SETTINGS: Final = "group_settings_update"

MAX_PARTICIPANTS: Final = 8
MAX_SUBJECT: Final = 128
MAX_DESCRIPTION: Final = 2048
APPROVAL_MODES: Final = ("auto_approve", "approval_required")
_PAGE: Final = 25
_ASYNC: Final = {"messaging_product": "whatsapp"}


@dataclass(slots=True)
class Group:
    """A group. `join_requests` maps the id of each open request to its author and time."""

    id: str
    subject: str
    description: str
    join_approval_mode: str
    created_at: int
    invite_link: str
    participants: list[str] = field(default_factory=list)
    join_requests: dict[str, tuple[str, int]] = field(default_factory=dict)


Row = TypeVar("Row", dict[str, str], dict[str, Any])

Outcome = tuple[dict[str, Any], list[WebhookPart]]
"""A response, and the webhooks that follow it."""


class Groups:
    """Every operation of Graph's groups, and the actions of their participants."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def __contains__(self, group_id: object) -> bool:
        return group_id in self._groups

    def participants(self, group_id: str) -> list[str]:
        """Return the participants of the group except the business."""
        return list(self._group(group_id).participants)

    def create(self, payload: Mapping[str, Any]) -> Outcome:
        """Create a group."""
        changes = _changes(payload)
        if "subject" not in changes:
            raise invalid("The parameter subject is required.")
        now = int(time.time())
        group = Group(
            id=base64.b64encode(b"capi_group:" + secrets.token_hex(8).encode()).decode().strip("="),
            subject=changes["subject"],
            description=changes.get("description", ""),
            join_approval_mode=changes.get("join_approval_mode", APPROVAL_MODES[0]),
            created_at=now,
            invite_link=_new_link(),
        )
        self._groups[group.id] = group
        request_id = _new_request_id()
        part = group_part(
            LIFECYCLE,
            "group_create",
            at=now,
            group_id=group.id,
            request_id=request_id,
            subject=group.subject,
            description=group.description or None,
            invite_link=group.invite_link,
            join_approval_mode=group.join_approval_mode,
        )
        return {**_ASYNC, "request_id": request_id}, [part]

    def page(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return a page of groups."""
        rows = [
            {"id": group.id, "subject": group.subject, "created_at": str(group.created_at)}
            for group in self._groups.values()
        ]
        page, paging = page_of(rows, query)
        return {"data": {"groups": page}, "paging": paging}

    def get(self, group_id: str, fields: str | None) -> dict[str, Any]:
        """Return a group, complete or only *fields* of the group."""
        group = self._group(group_id)
        whole = {
            "subject": group.subject,
            "description": group.description,
            "creation_timestamp": group.created_at,
            "suspended": False,
            "total_participant_count": len(group.participants),
            "participants": [{"wa_id": wa_id} for wa_id in group.participants],
            "join_approval_mode": group.join_approval_mode,
        }
        wanted = fields.split(",") if fields else whole
        shown = {key: value for key, value in whole.items() if key in wanted}
        return {**_ASYNC, "id": group.id, **shown}

    def update(self, group_id: str, payload: Mapping[str, Any]) -> Outcome:
        """Change the given fields: subject, description, approval mode."""
        group = self._group(group_id)
        changes = _changes(payload)
        if not changes:
            raise invalid("Nothing that can be changed was given.")
        for name, value in changes.items():
            setattr(group, name, value)
        request_id = _new_request_id()
        results = {
            f"group_{name}": {"text": changes[name], "update_successful": True}
            for name in ("subject", "description")
            if name in changes
        }
        part = group_part(
            SETTINGS,
            "group_settings_update",
            at=int(time.time()),
            group_id=group_id,
            request_id=request_id,
            **results,
        )
        return {**_ASYNC, "request_id": request_id}, [part]

    def delete(self, group_id: str) -> Outcome:
        """Delete a group."""
        self._group(group_id)
        del self._groups[group_id]
        request_id = _new_request_id()
        now = int(time.time())
        part = group_part(
            LIFECYCLE, "group_delete", at=now, group_id=group_id, request_id=request_id
        )
        return {**_ASYNC, "request_id": request_id}, [part]

    def invite_link(self, group_id: str, *, reset: bool) -> dict[str, Any]:
        """Return the invite link; a new one if *reset*."""
        group = self._group(group_id)
        if reset:
            group.invite_link = _new_link()
        return {**_ASYNC, "invite_link": group.invite_link}

    def remove(self, group_id: str, payload: Mapping[str, Any]) -> Outcome:
        """Remove people."""
        group = self._group(group_id)
        rows = payload.get("participants")
        if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_PARTICIPANTS:
            raise invalid("The parameter participants must list 1 to 8 users.")
        users = [row.get("user") if isinstance(row, dict) else None for row in rows]
        if any(user not in group.participants for user in users):
            raise GraphFault(400, 131212)
        group.participants = [wa_id for wa_id in group.participants if wa_id not in users]
        request_id = _new_request_id()
        part = group_part(
            PARTICIPANTS,
            "group_participants_remove",
            at=int(time.time()),
            group_id=group_id,
            request_id=request_id,
            initiated_by="business",
            removed_participants=[{"input": user} for user in users],
        )
        return {**_ASYNC, "request_id": request_id}, [part]

    def list_join_requests(self, group_id: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Return a page of open join requests."""
        rows = [
            {"join_request_id": request_id, "wa_id": wa_id, "creation_timestamp": str(at)}
            for request_id, (wa_id, at) in self._group(group_id).join_requests.items()
        ]
        page, paging = page_of(rows, query)
        return {"data": page, "paging": paging}

    def decide(self, group_id: str, payload: Mapping[str, Any], *, approve: bool) -> Outcome:
        """Approve or reject join requests; the response lists successes and failures."""
        group = self._group(group_id)
        ids = payload.get("join_requests")
        if not isinstance(ids, list) or not ids or not all(isinstance(one, str) for one in ids):
            raise invalid("The parameter join_requests must list ids.")
        known = [one for one in ids if one in group.join_requests]
        people = [group.join_requests.pop(one)[0] for one in known]
        answer: dict[str, Any] = {
            **_ASYNC,
            "approved_join_requests" if approve else "rejected_join_requests": known,
        }
        if failed := [one for one in ids if one not in known]:
            errors = [webhook_error(131213)]
            answer["failed_join_requests"] = [
                {"join_request_id": one, "errors": errors} for one in failed
            ]
        parts = [self._added(group, wa_id, "join_request") for wa_id in people] if approve else []
        return answer, parts

    def join(self, group_id: str, wa_id: str) -> list[WebhookPart]:
        """Follow the invite link as a participant: joined, or the request is open."""
        group = self._group(group_id)
        if group.join_approval_mode == APPROVAL_MODES[0]:
            return [self._added(group, wa_id, "invite_link")]
        now, request_id = int(time.time()), _new_request_id()
        group.join_requests[request_id] = (wa_id, now)
        return [
            group_part(
                PARTICIPANTS,
                "group_join_request_created",
                at=now,
                group_id=group_id,
                join_request_id=request_id,
                wa_id=wa_id,
            )
        ]

    def _added(self, group: Group, wa_id: str, reason: str) -> WebhookPart:
        if wa_id not in group.participants:
            group.participants.append(wa_id)
        return group_part(
            PARTICIPANTS,
            "group_participants_add",
            at=int(time.time()),
            group_id=group.id,
            reason=reason,
            added_participants=[{"wa_id": wa_id}],
        )

    def _group(self, group_id: str) -> Group:
        group = self._groups.get(group_id)
        if group is None:
            raise missing_object()
        return group


def _changes(payload: Mapping[str, Any]) -> dict[str, str]:
    limits = {"subject": MAX_SUBJECT, "description": MAX_DESCRIPTION}
    changes = {}
    for name, limit in limits.items():
        if name in payload:
            if not isinstance(payload[name], str) or not 1 <= len(payload[name]) <= limit:
                raise invalid(f"The parameter {name} must have 1 to {limit} characters.")
            changes[name] = payload[name]
    if "join_approval_mode" in payload:
        if payload["join_approval_mode"] not in APPROVAL_MODES:
            raise invalid("The parameter join_approval_mode is invalid.")
        changes["join_approval_mode"] = payload["join_approval_mode"]
    return changes


def page_of(rows: list[Row], query: Mapping[str, str]) -> tuple[list[Row], dict[str, Any]]:
    """Cut a page out of *rows*; a cursor is the position of its end or begin."""
    limit, after, before = (query.get(name, "") for name in ("limit", "after", "before"))
    size = int(limit) if limit.isdecimal() and int(limit) else _PAGE
    end = int(before) if before.isdecimal() else len(rows)
    start = int(after) if after.isdecimal() else max(0, end - size) if before else 0
    page = rows[start : min(start + size, end)]
    cursors = {"before": str(start), "after": str(start + len(page))}
    return page, {"cursors": cursors}


def _new_link() -> str:
    return f"https://chat.whatsapp.com/{secrets.token_urlsafe(16)}"


def _new_request_id() -> str:
    return secrets.token_urlsafe(18)
