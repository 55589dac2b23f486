"""From an envelope to updates: each item separately, none lost silently. No I/O."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from wats.ids import is_safe_id
from wats.inbound.items import (
    Change,
    Item,
    SkipReason,
    is_short,
    numbers_of,
    read_call,
    read_call_status,
    read_copy,
    read_event,
    read_group,
    read_message,
    read_status,
    seconds_of,
)
from wats.inbound.updates import Update, identifier
from wats.telemetry.contract.values import UpdateKind


class Skip(msgspec.Struct, frozen=True):
    """A part of an envelope without an update: the reason, its path and the expected kind.

    `path` is like `entry[0].changes[1].value.messages[2]` and holds no value.
    """

    reason: SkipReason
    path: str
    kind: UpdateKind


MAX_SKIPS = 1000
"""The limit of described skips. Meta sends a few; further ones are counted as cheaply as
possible, because millions fit into one body.
"""


_MANY = 8
"""With more items than this, a long contact or error is not copied into each: a body of 3 MB would
become many gigabytes."""


class Normalized(msgspec.Struct, frozen=True, gc=False):
    """The content of an envelope.

    Attributes:
        updates: Every update.
        skips: The first `MAX_SKIPS` parts that became no update.
        skipped: The number of all such parts, by the expected kind of update.
    """

    updates: list[Update]
    skips: list[Skip]
    skipped: Mapping[UpdateKind, int] = msgspec.field(default_factory=dict)


class _MemberRow(msgspec.Struct, frozen=True):
    """The reader for the items of one member of a value, and their default kind."""

    kind: UpdateKind
    read: Callable[[Change, Item, UpdateKind], Update | SkipReason]


class _Field(msgspec.Struct, frozen=True):
    """The readers for the value of one field.

    Attributes:
        whole: The row for a value that is one item itself: always if there are no members, else
            when it has no known member. `None` if that cannot be.
        members: The rows for the members that hold items.
        wrapper: A member that may hold the other members, in place of the value.
        shares_errors: Whether the errors of a value belong to the items next to them.
    """

    whole: _MemberRow | None
    members: dict[str, _MemberRow]
    wrapper: str | None = None
    shares_errors: bool = False

    @property
    def kind(self) -> UpdateKind:
        """The kind to report when an item cannot be read."""
        return (self.whole or next(iter(self.members.values()))).kind


def _only(kind: UpdateKind) -> _Field:
    return _Field(_MemberRow(kind, read_event), {})


def _listed(kind: UpdateKind, member: str, read: Callable[..., Update | SkipReason]) -> _Field:
    return _Field(_MemberRow(kind, read), {member: _MemberRow(kind, read)})


_UNKNOWN_ROW = _MemberRow(UpdateKind.UNKNOWN, read_event)
_UNKNOWN = _only(UpdateKind.UNKNOWN)
_ERROR = _MemberRow(UpdateKind.ERROR, read_event)
_ACCOUNT = (
    "account_alerts",
    "account_offboarded",
    "account_reconnected",
    "account_review_update",
    "account_settings_update",
    "account_update",
    "business_capability_update",
    "business_status_update",
    "business_username_update",
    "business_username_updates",
    "partner_solutions",
    "payment_configuration_update",
    "phone_number_name_update",
    "phone_number_quality_update",
    "security",
)
_TEMPLATE = (
    "message_template_components_update",
    "message_template_quality_update",
    "message_template_status_update",
    "template_category_update",
    "template_correct_category_detection",
)

FIELDS: dict[str, _Field] = {
    "messages": _Field(
        None,
        {
            "messages": _MemberRow(UpdateKind.MESSAGE, read_message),
            "statuses": _MemberRow(UpdateKind.STATUS, read_status),
            "user_actions": _MemberRow(UpdateKind.USER_ACTION, read_event),
        },
    ),
    "calls": _Field(
        None,
        {
            "calls": _MemberRow(UpdateKind.CALL_CONNECT, read_call),
            "statuses": _MemberRow(UpdateKind.CALL_STATUS, read_call_status),
        },
        shares_errors=True,
    ),
    "group_lifecycle_update": _listed(UpdateKind.GROUP_LIFECYCLE, "groups", read_group),
    "group_participants_update": _listed(UpdateKind.GROUP_PARTICIPANTS, "groups", read_group),
    "group_settings_update": _listed(UpdateKind.GROUP_SETTINGS, "groups", read_group),
    "group_status_update": _listed(UpdateKind.GROUP_STATUS, "groups", read_group),
    "user_preferences": _listed(UpdateKind.USER_PREFERENCES, "user_preferences", read_event),
    "user_id_update": _listed(UpdateKind.USER_ID_UPDATE, "user_id_update", read_event),
    "history": _Field(
        _MemberRow(UpdateKind.HISTORY, read_event),
        {
            "history": _MemberRow(UpdateKind.HISTORY, read_event),
            "messages": _MemberRow(UpdateKind.HISTORY, read_copy),
        },
    ),
    "message_echoes": _listed(UpdateKind.MESSAGE_ECHO, "message_echoes", read_copy),
    "smb_message_echoes": _listed(UpdateKind.MESSAGE_ECHO, "message_echoes", read_copy),
    "smb_app_state_sync": _listed(UpdateKind.APP_STATE_SYNC, "state_sync", read_event),
    "automatic_events": _listed(UpdateKind.AUTOMATIC_EVENT, "automatic_events", read_event),
    "standby": _Field(
        _MemberRow(UpdateKind.STANDBY, read_event),
        {
            "messages": _MemberRow(UpdateKind.STANDBY, read_copy),
            "statuses": _MemberRow(UpdateKind.STANDBY, read_status),
            "message_echoes": _MemberRow(UpdateKind.STANDBY, read_copy),
            "standby": _MemberRow(UpdateKind.STANDBY, read_event),
        },
        wrapper="standby",
    ),
    "system": _listed(UpdateKind.SYSTEM, "system", read_event),
    "chat_opened": _listed(UpdateKind.CHAT_OPENED, "chat_opened", read_event),
    "flows": _only(UpdateKind.FLOW),
    "messaging_handovers": _only(UpdateKind.HANDOVER),
    **dict.fromkeys(_ACCOUNT, _only(UpdateKind.ACCOUNT)),
    **dict.fromkeys(_TEMPLATE, _only(UpdateKind.TEMPLATE)),
}
"""Every field that has a kind of its own; the value of any other is one `unknown` update."""

_LONGEST_WORD = 64

_AROUND = frozenset({"messaging_product", "metadata", "contacts"})
"""Members of a value that describe its items and are not items."""


def normalize(envelope: object, *, received_at: datetime) -> Normalized:
    """Return every update in *envelope*, and the reason for every part that gives none.

    Accepts every result of `envelope.parse` without raising. An update that is in the envelope
    twice is returned once.
    """
    walk = _EnvelopeWalk(received_at)
    entries = envelope.get("entry") if isinstance(envelope, dict) else None
    if isinstance(entries, list):
        walk.entries(entries)
    else:
        walk.skip(SkipReason.MALFORMED_ENTRY)
    return Normalized(walk.updates, walk.skips, walk.skipped)


class _EnvelopeWalk:
    """One walk through one envelope."""

    def __init__(self, received_at: datetime) -> None:
        self.updates: list[Update] = []
        self.skips: list[Skip] = []
        self.skipped: dict[UpdateKind, int] = {}
        self._keys: set[str] = set()
        self._received_at = received_at
        # The position, from which a path is built only if something is skipped.
        self._entry: int | None = None
        self._change: int | None = None

    def skip(
        self,
        reason: SkipReason,
        path: str = "",
        kind: UpdateKind = UpdateKind.UNKNOWN,
        index: int | None = None,
    ) -> None:
        """Count a part as skipped, and describe it if there is room.

        *path* is relative to the current change, or entry; *index* is the position in it.
        """
        self.skipped[kind] = self.skipped.get(kind, 0) + 1
        if len(self.skips) < MAX_SKIPS:
            entry = "" if self._entry is None else f"[{self._entry}]"
            change = "" if self._change is None else f".changes[{self._change}]"
            place = "" if index is None else f"[{index}]"
            self.skips.append(Skip(reason, f"entry{entry}{change}{path}{place}", kind))

    def _objects(
        self,
        items: Sequence[object],
        reason: SkipReason,
        path: str = "",
        kind: UpdateKind = UpdateKind.UNKNOWN,
    ) -> Iterator[tuple[int, Item]]:
        """Yield the objects among *items* with their positions, and skip all other values."""
        uncounted = 0
        for index, item in enumerate(items):
            if isinstance(item, dict):
                yield index, item
            elif len(self.skips) < MAX_SKIPS:
                self.skip(reason, path, kind, index)
            else:
                uncounted += 1
        if uncounted:
            self.skipped[kind] = self.skipped.get(kind, 0) + uncounted

    def entries(self, entries: Sequence[object]) -> None:
        for index, entry in self._objects(entries, SkipReason.MALFORMED_ENTRY):
            self._entry = index
            self._take_entry(entry)
            self._entry = None

    def _take_entry(self, entry: Item) -> None:
        waba_id = identifier(entry.get("id"))
        changes = entry.get("changes")
        if waba_id is None or not isinstance(changes, list):
            self.skip(SkipReason.MALFORMED_ENTRY)
            return
        seconds = seconds_of(entry.get("time"))
        for index, change in self._objects(changes, SkipReason.MALFORMED_CHANGE, ".changes"):
            self._change = index
            self._take_change(change, waba_id, seconds)
            self._change = None

    def _take_change(self, change: Item, waba_id: str, seconds: int | None) -> None:
        name = change.get("field")
        if not isinstance(name, str) or not name.strip():
            self.skip(SkipReason.MALFORMED_CHANGE)
            return
        field = FIELDS.get(name, _UNKNOWN)
        value = change.get("value")
        if not isinstance(value, dict):
            self.skip(SkipReason.MALFORMED_CHANGE, kind=field.kind)
            return
        if field is _UNKNOWN and not is_safe_id(name):
            name = UpdateKind.UNKNOWN.value
        for part, inner in _unwrapped(value, field.wrapper):
            number, display_number = numbers_of(inner)
            about = Change(
                path=part,
                field=name,
                number=number,
                display_number=display_number,
                waba_id=waba_id,
                entry_seconds=seconds,
                received_at=self._received_at,
                contacts=inner.get("contacts"),
            )
            if field.whole is not None and not field.members:
                self._items(about, "", field.whole, inner)
            else:
                self._members(about, field, inner)

    def _members(self, change: Change, field: _Field, value: Item) -> None:
        shared = value.get("errors") if field.shares_errors else None
        others = []
        is_listed = is_shared = False
        for name, member in value.items():
            row = field.members.get(name)
            if row is not None:
                is_listed = True
                is_shared |= self._items(change, name, row, member, shared)
            elif name not in _AROUND:
                others.append(name)
        if is_shared:
            others.remove("errors")
        if others or not is_listed:
            self._others(change, field, value, others, is_listed=is_listed)

    def _items(
        self, change: Change, name: str, row: _MemberRow, member: object, shared: object = None
    ) -> bool:
        """Read the items of *member*, a list or one item; *name* is its position in the value.

        Items without errors of their own get the *shared* ones.

        Returns:
            Whether an item was an update, even a duplicate: then the errors are not one themselves.
        """
        is_shared = False
        path = f"{change.path}.{name}" if name else change.path
        if not isinstance(member, list | dict):
            self.skip(SkipReason.MALFORMED_ITEM, path, row.kind)
            return False
        items = member if isinstance(member, list) else (member,)
        if len(items) > _MANY:
            change.drop_long_contacts()
            shared = shared if is_short(shared) else None
        for index, item in self._objects(items, SkipReason.MALFORMED_ITEM, path, row.kind):
            whole = {**item, "errors": shared} if shared and "errors" not in item else item
            refusal = self._take(change, row, whole)
            if refusal is not None:
                reason, kind = refusal
                self.skip(reason, path, kind, index if items is member else None)
            if whole is not item and (refusal is None or refusal[0] is SkipReason.DUPLICATE):
                is_shared = True
        return is_shared

    def _take(
        self, change: Change, row: _MemberRow, item: Item
    ) -> tuple[SkipReason, UpdateKind] | None:
        update = row.read(change, item, row.kind)
        if isinstance(update, SkipReason):
            return update, row.kind
        if update.key in self._keys:
            return SkipReason.DUPLICATE, update.kind
        self._keys.add(update.key)
        self.updates.append(update)
        return None

    def _others(
        self, change: Change, field: _Field, value: Item, others: list[str], *, is_listed: bool
    ) -> None:
        """Read the unknown members of *value*, so that nothing is lost silently."""
        if not others:
            self.skip(SkipReason.EMPTY_VALUE, change.path, field.kind)
            return
        if field.whole is not None and not is_listed and others != ["errors"]:
            self._items(change, "", field.whole, value)
            return
        for name in others:
            member = value[name]
            if name == "errors":
                self._items(change, name, _ERROR, member)
            elif isinstance(member, dict | list) and member:
                self._items(change, "", _UNKNOWN_ROW, {name: member})
            else:
                # Only text in the form of Meta's words may be part of a path.
                is_word = name.isascii() and name.isidentifier() and len(name) <= _LONGEST_WORD
                path = f"{change.path}.{name}" if is_word else change.path
                self.skip(SkipReason.UNREAD_MEMBER, path)


def _unwrapped(value: Item, wrapper: str | None) -> Sequence[tuple[str, Item]]:
    if wrapper is None:
        return ((".value", value),)
    wrapped = value.get(wrapper)
    if not isinstance(wrapped, dict):
        return ((".value", value),)
    around = {name: value[name] for name in _AROUND & value.keys()}
    parts = [(f".value.{wrapper}", {**around, **wrapped})]
    rest = {name: member for name, member in value.items() if name != wrapper}
    if rest.keys() - _AROUND:
        parts.append((".value", rest))
    return parts
