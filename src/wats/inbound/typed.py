"""The typed content of every update, by its kind and field. No I/O."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from wats.inbound import account, events
from wats.inbound.content import (
    CONTENT_TYPES,
    Button,
    Contacts,
    Edit,
    Interactive,
    Location,
    Media,
    Order,
    PlatformError,
    Reaction,
    Revoke,
    System,
    Text,
    Unsupported,
    read_content,
)
from wats.inbound.parts import Part, read
from wats.telemetry.contract.values import UpdateKind

_MESSAGE_TYPES: Final[Mapping[str, type[Part]]] = {
    **CONTENT_TYPES,
    "contacts": Contacts,
    "edit": Edit,
}
_MESSAGE_CONTENTS: Final = tuple(
    {part: None for part in _MESSAGE_TYPES.values() if part is not System}
)
"""The contents of messages of customers; a message of an unknown type has none."""

ACCOUNT_CONTENTS: Final[Mapping[str, type[Part]]] = {
    "account_alerts": account.AccountAlert,
    "account_offboarded": account.AccountUpdate,
    "account_reconnected": account.AccountUpdate,
    "account_review_update": account.AccountReview,
    "account_settings_update": account.AccountSettings,
    "account_update": account.AccountUpdate,
    "business_capability_update": account.BusinessCapability,
    "business_status_update": account.BusinessStatus,
    "business_username_update": account.BusinessUsername,
    "business_username_updates": account.BusinessUsername,
    "partner_solutions": account.PartnerSolution,
    "payment_configuration_update": account.PaymentConfiguration,
    "phone_number_name_update": account.NumberName,
    "phone_number_quality_update": account.NumberQuality,
    "security": account.SecurityEvent,
}
"""The contents of the kind `account`, by field."""

TEMPLATE_CONTENTS: Final[Mapping[str, type[Part]]] = {
    "message_template_components_update": account.TemplateComponents,
    "message_template_quality_update": account.TemplateQuality,
    "message_template_status_update": account.TemplateStatus,
    "template_category_update": account.TemplateCategory,
    "template_correct_category_detection": account.TemplateCategoryDetection,
}
"""The contents of the kind `template`, by field."""

_KIND_CONTENTS: Final[Mapping[UpdateKind, type[Part]]] = {
    UpdateKind.STATUS: events.Status,
    UpdateKind.PAYMENT_STATUS: events.Status,
    UpdateKind.CALL_CONNECT: events.CallEvent,
    UpdateKind.CALL_TERMINATE: events.CallEvent,
    UpdateKind.CALL_STATUS: events.CallStatus,
    UpdateKind.GROUP_LIFECYCLE: events.GroupLifecycle,
    UpdateKind.GROUP_PARTICIPANTS: events.GroupParticipants,
    UpdateKind.GROUP_SETTINGS: events.GroupSettings,
    UpdateKind.GROUP_STATUS: events.GroupStatus,
    UpdateKind.USER_PREFERENCES: events.UserPreference,
    UpdateKind.CHAT_OPENED: events.ChatOpening,
    UpdateKind.ERROR: PlatformError,
    UpdateKind.USER_ACTION: events.UserAction,
    UpdateKind.USER_ID_UPDATE: events.UserIdChange,
    UpdateKind.APP_STATE_SYNC: events.StateSync,
    UpdateKind.FLOW: account.FlowEvent,
    UpdateKind.AUTOMATIC_EVENT: events.AutomaticEvent,
    UpdateKind.HANDOVER: events.Handover,
}
"""The contents of the kinds that have one class each."""


CONTENTS: Final[Mapping[UpdateKind, tuple[type[Part], ...]]] = {
    **{kind: (each,) for kind, each in _KIND_CONTENTS.items()},
    UpdateKind.MESSAGE: _MESSAGE_CONTENTS,
    UpdateKind.SYSTEM: (System, events.CustomerChange),
    UpdateKind.ACCOUNT: tuple(dict.fromkeys(ACCOUNT_CONTENTS.values())),
    UpdateKind.TEMPLATE: tuple(TEMPLATE_CONTENTS.values()),
    UpdateKind.HISTORY: (events.HistoryChunk, events.MessageCopy),
    UpdateKind.MESSAGE_ECHO: (events.MessageCopy,),
    UpdateKind.STANDBY: (events.MessageCopy, events.Status),
    UpdateKind.UNKNOWN: (),
}
"""The classes that `Update.content` can have, for each kind."""

AnyContent: TypeAlias = (
    Text
    | Media
    | Location
    | Contacts
    | Interactive
    | Button
    | Order
    | Reaction
    | System
    | Revoke
    | Edit
    | Unsupported
    | PlatformError
    | events.Status
    | events.UserAction
    | events.ChatOpening
    | events.CallEvent
    | events.CallStatus
    | events.GroupLifecycle
    | events.GroupParticipants
    | events.GroupSettings
    | events.GroupStatus
    | events.UserPreference
    | events.UserIdChange
    | events.CustomerChange
    | events.MessageCopy
    | events.HistoryChunk
    | events.StateSync
    | events.AutomaticEvent
    | events.Handover
    | account.AccountAlert
    | account.AccountReview
    | account.AccountSettings
    | account.AccountUpdate
    | account.BusinessCapability
    | account.BusinessStatus
    | account.BusinessUsername
    | account.FlowEvent
    | account.NumberName
    | account.NumberQuality
    | account.PartnerSolution
    | account.PaymentConfiguration
    | account.SecurityEvent
    | account.TemplateCategory
    | account.TemplateCategoryDetection
    | account.TemplateComponents
    | account.TemplateQuality
    | account.TemplateStatus
)
"""The content of any update."""


_FIELD_CONTENTS: Final = {**ACCOUNT_CONTENTS, **TEMPLATE_CONTENTS}


def read_typed(kind: UpdateKind, field: str, raw: dict[str, Any]) -> Part | None:
    """Return the content of the item *raw*.

    Returns:
        `None` if its type, event or field is unknown.
    """
    match kind:
        case UpdateKind.MESSAGE:
            return read_content(raw)
        case UpdateKind.SYSTEM:
            return read_content(raw) if "system" in raw else read(events.CustomerChange, raw)
        case UpdateKind.HISTORY | UpdateKind.MESSAGE_ECHO | UpdateKind.STANDBY:
            return _read_copied(kind, raw)
        case _:
            part = _KIND_CONTENTS.get(kind) or _FIELD_CONTENTS.get(field)
            return None if part is None else read(part, raw)


def _read_copied(kind: UpdateKind, raw: dict[str, Any]) -> Part | None:
    """Read an item about a chat that is not ours: a message, a status or a part of the history."""
    if kind is UpdateKind.STANDBY and "status" in raw and "type" not in raw:
        return read(events.Status, raw)
    if "id" in raw:
        return events.read_copy(raw)
    return events.read_history(raw) if kind is UpdateKind.HISTORY else None
