"""The content of statuses, calls, groups, customers and copies of messages. No I/O."""

import msgspec

from wats.inbound.content import (
    Context,
    Conversation,
    Identity,
    Payment,
    PlatformError,
    Pricing,
    Referral,
    read_content,
)
from wats.inbound.parts import Moment, Part, read, read_all


class CustomerProfile(Part, frozen=True):
    """The public profile of a customer."""

    name: str | None = None
    username: str | None = None


class Customer(Part, frozen=True):
    """Meta's data about the customer of an item. All fields are personal data."""

    profile: CustomerProfile | None = None
    wa_id: str | None = None
    user_id: str | None = None
    parent_user_id: str | None = None
    username: str | None = None
    identity_key_hash: str | None = None


class Status(Part, frozen=True):
    """The status of a sent message, or of its payment."""

    id: str | None = None
    status: str | None = None
    timestamp: Moment | None = None
    type: str | None = None
    recipient_id: str | None = None
    recipient_type: str | None = None
    recipient_user_id: str | None = None
    recipient_parent_user_id: str | None = None
    recipient_participant_id: str | None = None
    recipient_participant_user_id: str | None = None
    recipient_participant_parent_user_id: str | None = None
    conversation: Conversation | None = None
    pricing: Pricing | None = None
    errors: tuple[PlatformError, ...] = ()
    message_status: str | None = None
    biz_opaque_callback_data: str | None = None
    payment: Payment | None = None


class LinkClick(Part, frozen=True):
    """The link in a marketing message that was tapped."""

    click_component: str | None = None
    product_id: str | None = None
    click_id: str | None = None
    tracking_token: str | None = None


class UserAction(Part, frozen=True):
    """An action of a customer other than a message; `action_type` names it."""

    action_type: str | None = None
    timestamp: Moment | None = None
    wa_id: str | None = None
    user_id: str | None = None
    parent_user_id: str | None = None
    marketing_messages_link_click_data: LinkClick | None = None
    data: LinkClick | None = None


class ChatOpening(Part, frozen=True):
    """A customer opened the chat for the first time."""

    id: str | None = None
    type: str | None = None
    from_: str | None = msgspec.field(name="from", default=None)
    from_user_id: str | None = None
    from_parent_user_id: str | None = None
    timestamp: Moment | None = None


class SessionDescription(Part, frozen=True):
    """The description of the media of a call, in SDP."""

    sdp_type: str | None = None
    sdp: str | None = None


class CallEvent(Part, frozen=True):
    """A call that begins or ends; `event` is `connect` or `terminate`.

    `duration` is the length of an answered call in seconds.
    """

    id: str | None = None
    event: str | None = None
    direction: str | None = None
    timestamp: Moment | None = None
    from_: str | None = msgspec.field(name="from", default=None)
    from_user_id: str | None = None
    from_parent_user_id: str | None = None
    to: str | None = None
    to_user_id: str | None = None
    to_parent_user_id: str | None = None
    session: SessionDescription | None = None
    status: str | None = None
    start_time: Moment | None = None
    end_time: Moment | None = None
    duration: int | None = None
    biz_opaque_callback_data: str | None = None
    cta_payload: str | None = None
    deeplink_payload: str | None = None
    errors: tuple[PlatformError, ...] = ()


class CallStatus(Part, frozen=True):
    """The status of a call that we made: `RINGING`, `ACCEPTED` or `REJECTED`."""

    id: str | None = None
    type: str | None = None
    status: str | None = None
    timestamp: Moment | None = None
    recipient_id: str | None = None
    recipient_user_id: str | None = None
    recipient_parent_user_id: str | None = None
    biz_opaque_callback_data: str | None = None
    errors: tuple[PlatformError, ...] = ()


class GroupLifecycle(Part, frozen=True):
    """A group that was created or deleted, or was not, by `type` and `errors`."""

    type: str | None = None
    timestamp: Moment | None = None
    group_id: str | None = None
    request_id: str | None = None
    subject: str | None = None
    description: str | None = None
    invite_link: str | None = None
    join_approval_mode: str | None = None
    errors: tuple[PlatformError, ...] = ()


class GroupParticipant(Part, frozen=True):
    """A participant of a group; `input` is the identifier in our request."""

    input: str | None = None
    wa_id: str | None = None
    user_id: str | None = None
    parent_user_id: str | None = None
    username: str | None = None
    errors: tuple[PlatformError, ...] = ()


class GroupParticipants(Part, frozen=True):
    """Participants that joined, left, were removed, or requested to join, by `type`."""

    type: str | None = None
    timestamp: Moment | None = None
    group_id: str | None = None
    request_id: str | None = None
    reason: str | None = None
    initiated_by: str | None = None
    join_request_id: str | None = None
    wa_id: str | None = None
    user_id: str | None = None
    parent_user_id: str | None = None
    username: str | None = None
    added_participants: tuple[GroupParticipant, ...] = ()
    removed_participants: tuple[GroupParticipant, ...] = ()
    failed_participants: tuple[GroupParticipant, ...] = ()
    errors: tuple[PlatformError, ...] = ()


class GroupSetting(Part, frozen=True):
    """The new subject, description or picture of a group, and whether it was set."""

    text: str | None = None
    mime_type: str | None = None
    sha256: str | None = None
    update_successful: bool | None = None
    errors: tuple[PlatformError, ...] = ()


class GroupSettings(Part, frozen=True):
    """The settings of a group that we changed."""

    type: str | None = None
    timestamp: Moment | None = None
    group_id: str | None = None
    request_id: str | None = None
    group_subject: GroupSetting | None = None
    group_description: GroupSetting | None = None
    profile_picture: GroupSetting | None = None
    errors: tuple[PlatformError, ...] = ()


class GroupStatus(Part, frozen=True):
    """A group that was suspended or reinstated, by `type`."""

    type: str | None = None
    timestamp: Moment | None = None
    group_id: str | None = None
    request_id: str | None = None
    errors: tuple[PlatformError, ...] = ()


class UserPreference(Part, frozen=True):
    """A customer stopped (`stop`) or resumed (`resume`) the marketing messages."""

    wa_id: str | None = None
    user_id: str | None = None
    parent_user_id: str | None = None
    category: str | None = None
    value: str | None = None
    detail: str | None = None
    signup_id: str | None = None
    timestamp: Moment | None = None


class IdChange(Part, frozen=True):
    """An id before and after a change."""

    previous: str | None = None
    current: str | None = None


class UserIdChange(Part, frozen=True):
    """The business-scoped ids of a customer changed."""

    wa_id: str | None = None
    user_id: IdChange | None = None
    parent_user_id: IdChange | None = None
    detail: str | None = None
    timestamp: Moment | None = None


class CustomerChange(Part, frozen=True):
    """A change of a customer's number or security code, from the field `system`."""

    type: str | None = None
    timestamp: Moment | None = None
    mobile_display_name: str | None = None
    old_phone_number: str | None = None
    new_phone_number: str | None = None
    wa_id: str | None = None
    acknowledged: bool | None = None
    created_timestamp: Moment | None = None
    hash: str | None = None


class HistoryContext(Part, frozen=True):
    """The status of an earlier message."""

    status: str | None = None


class MessageCopy(Part, frozen=True):
    """A message that was not sent to us: an echo, one of the history, one in standby.

    `content` has the class of the same message from a customer; `None` if its type is unknown.
    """

    id: str | None = None
    type: str | None = None
    timestamp: Moment | None = None
    from_: str | None = msgspec.field(name="from", default=None)
    from_user_id: str | None = None
    from_parent_user_id: str | None = None
    to: str | None = None
    to_user_id: str | None = None
    to_parent_user_id: str | None = None
    group_id: str | None = None
    context: Context | None = None
    referral: Referral | None = None
    identity: Identity | None = None
    errors: tuple[PlatformError, ...] = ()
    message_creation_type: str | None = None
    history_context: HistoryContext | None = None
    content: Part | None = None


class HistoryProgress(Part, frozen=True):
    """The position of a chunk: its phase (0: a day, 1: 90 days, 2: 180 days) and percentage."""

    phase: int | None = None
    chunk_order: int | None = None
    progress: int | None = None


class HistoryThread(Part, frozen=True):
    """The earlier messages of one chat; `id` is the number of the customer."""

    id: str | None = None
    messages: tuple[MessageCopy, ...] = ()


class HistoryChunk(Part, frozen=True):
    """A part of the history of a number, or the reason why there is none."""

    metadata: HistoryProgress | None = None
    threads: tuple[HistoryThread, ...] = ()
    errors: tuple[PlatformError, ...] = ()


class SyncedContact(Part, frozen=True):
    """A contact of the phone app."""

    full_name: str | None = None
    first_name: str | None = None
    phone_number: str | None = None


class SyncTime(Part, frozen=True):
    """The time of a change in the phone app."""

    timestamp: Moment | None = None


class StateSync(Part, frozen=True):
    """A contact that was added to the phone app, changed, or removed, by `action`."""

    type: str | None = None
    action: str | None = None
    contact: SyncedContact | None = None
    metadata: SyncTime | None = None


class ConversionData(Part, frozen=True):
    """The price of a purchase: *value* is a thousandth of a unit of the currency."""

    currency: str | None = None
    value: int | None = None


class AutomaticEvent(Part, frozen=True):
    """A lead or purchase that Meta inferred from a conversation, by `event_name`."""

    id: str | None = None
    event_name: str | None = None
    timestamp: Moment | None = None
    ctwa_clid: str | None = None
    custom_data: ConversionData | None = None


class HandoverNumber(Part, frozen=True):
    """The business number of a handover."""

    phone_number_id: str | None = None
    display_phone_number: str | None = None


class HandoverCustomer(Part, frozen=True):
    """The customer of a handover."""

    phone_number: str | None = None
    wa_id: str | None = None
    user_id: str | None = None
    parent_user_id: str | None = None


class ControlChange(Part, frozen=True):
    """The former and the new owner of a conversation, with a note."""

    previous_owner_role: str | None = None
    new_owner_role: str | None = None
    metadata: str | None = None


class Handover(Part, frozen=True):
    """The control of a conversation was passed or taken, by `type`."""

    type: str | None = None
    timestamp: Moment | None = None
    recipient: HandoverNumber | None = None
    sender: HandoverCustomer | None = None
    control_passed: ControlChange | None = None
    control_taken: ControlChange | None = None


def read_copy(raw: object) -> MessageCopy | None:
    """Return *raw* as a copy of a message; `None` if it is not a JSON object."""
    copy = read(MessageCopy, raw)
    if copy is None or not isinstance(raw, dict):
        return None
    return msgspec.structs.replace(copy, content=read_content(raw))


def read_history(raw: object) -> HistoryChunk | None:
    """Return *raw* as a chunk of the history; `None` if it is not a JSON object."""
    if not isinstance(raw, dict):
        return None
    threads = raw.get("threads")
    return HistoryChunk(
        metadata=read(HistoryProgress, raw.get("metadata")),
        threads=tuple(_read_thread(each) for each in _objects(threads)),
        errors=read_all(PlatformError, raw.get("errors")),
    )


def _read_thread(raw: dict[str, object]) -> HistoryThread:
    identified = read(HistoryThread, {"id": raw.get("id")})
    copies = tuple(copy for each in _objects(raw.get("messages")) if (copy := read_copy(each)))
    return HistoryThread(id=identified.id if identified else None, messages=copies)


def _objects(raw: object) -> list[dict[str, object]]:
    return [each for each in raw if isinstance(each, dict)] if isinstance(raw, list) else []
