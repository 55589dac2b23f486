"""The bodies of the API as types: what callers send, and what they are answered. No I/O.

The OpenAPI document is made of these, and answers are rendered from them, so that the order of
their fields is the order on the wire. What callers send is judged by `wats.outbound.messages` and
`wats.web.groups`, which tell every mistake at once and know rules that a schema cannot state.
"""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wats.outbound.messages import BSUID_PATTERN, MAX_TEXT_LENGTH, PHONE_PATTERN, TYPE_PATTERN

Count: TypeAlias = Annotated[int, Meta(ge=0)]
Moment: TypeAlias = Annotated[
    str, Meta(description="UTC, with milliseconds.", extra_json_schema={"format": "date-time"})
]
Phone: TypeAlias = Annotated[
    str,
    Meta(pattern=f"^{PHONE_PATTERN}$", description="A phone number, optionally preceded by '+'."),
]
Text: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_TEXT_LENGTH,
        description="Counted in UTF-16 code units; line feeds and tabs are kept.",
    ),
]
Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]


class _Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A body in our own camelCase."""


class _ClosedBody(_Body, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A body of which unknown keys are refused."""


class Health(_Body, frozen=True):
    """The service is healthy."""

    ok: bool
    service: str


class FeatureFlags(_Body, frozen=True):
    """The enabled features."""

    group_routes: bool
    persistence: bool


class StoreView(_Body, frozen=True):
    """The health of the database, without its location."""

    ok: bool
    backend: Annotated[str, Meta(extra_json_schema={"enum": ["sqlite", "postgres", "unknown"]})]
    current_version: int
    redacted_location: str


class Status(_Body, frozen=True):
    """A snapshot for operators."""

    service: str
    version: str
    uptime_seconds: Count
    graph_api_version: str
    service_mode: str
    routes: tuple[str, ...]
    feature_flags: FeatureFlags
    persistence: StoreView | None


class GraphShape(_Body, frozen=True):
    """The configured Graph API."""

    api_version: str


class AuthShape(_Body, frozen=True):
    """The redacted access token."""

    access_token: str


class ServiceShape(_Body, frozen=True):
    """The address and prefix of the API."""

    host: str
    port: int
    api_prefix: str


class WebhookShape(_Body, frozen=True):
    """The configuration of the webhook."""

    path: str
    verify_token: str
    app_secret: str
    max_body_bytes: int


class ConfigShape(_Body, frozen=True):
    """The configuration without secrets."""

    graph: GraphShape
    auth: AuthShape
    service: ServiceShape
    webhook: WebhookShape


class Diagnostics(_Body, frozen=True):
    """Diagnostics of bounded size for a support request."""

    service: str
    version: str
    graph_api_version: str
    service_mode: str
    runtime: str
    routes: tuple[str, ...]
    feature_flags: FeatureFlags
    persistence: StoreView
    metric_families: tuple[str, ...]
    recent_errors: dict[str, int]
    config_shape: ConfigShape


class WebhookReceipt(_Body, frozen=True):
    """The counts of a webhook's updates, by outcome."""

    status: Literal["ok"]
    received: Count
    dispatched: Count
    skipped: Count


class TextMessage(_Body, frozen=True):
    """A text message to one recipient."""

    to: Phone
    text: Text
    preview_url: bool | UnsetType = UNSET


class TextContent(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a message of the type `text`."""

    body: Text
    preview_url: bool | UnsetType = UNSET


class TypedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of any type in Graph's format; it is forwarded unchanged.

    `type` names the key of the content: an array for `contacts`, an object for every other type.
    The message needs `to`, `recipient`, or both.
    """

    messaging_product: Literal["whatsapp"]
    recipient_type: Literal["individual", "group"] | UnsetType = UNSET
    to: (
        Annotated[
            str, Meta(min_length=1, max_length=256, description="A phone number, or a group's id.")
        ]
        | UnsetType
    ) = UNSET
    recipient: (
        Annotated[str, Meta(pattern=f"^{BSUID_PATTERN}$", description="A business-scoped user id.")]
        | UnsetType
    ) = UNSET
    type: Annotated[str, Meta(pattern=f"^{TYPE_PATTERN}$")]
    text: TextContent | UnsetType = UNSET


class ReadMark(msgspec.Struct, frozen=True, kw_only=True):
    """Mark a customer's message as read, optionally with a typing indicator."""

    messaging_product: Literal["whatsapp"]
    status: Literal["read"]
    message_id: Id
    typing_indicator: dict[str, Any] | UnsetType = UNSET


GraphMessage: TypeAlias = TypedMessage | ReadMark


class GraphAnswer(msgspec.Struct, frozen=True):
    """Meta's response; an empty object if Meta accepted but its response cannot be parsed."""


class MessageView(_Body, frozen=True):
    """The record of one message, without content."""

    row_id: str
    wa_message_id: str
    direction: Literal["inbound", "outbound"]
    from_phone: str | None
    to_phone: str | None
    type: str
    status: str
    graph_message_id: str | None
    created_at: Moment
    updated_at: Moment


class MessageList(_Body, frozen=True):
    """A page of messages, newest record first."""

    items: tuple[MessageView, ...]
    next_cursor: str | None


class WindowView(_Body, frozen=True):
    """A customer's service window, computed from the messages that this gateway received."""

    open: bool
    last_inbound_at: Moment | None
    expires_at: Moment | None
    remaining_ms: Count


Subject: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
Description: TypeAlias = Annotated[str, Meta(min_length=1, max_length=2048)]
JoinApprovalMode: TypeAlias = Literal["auto_approve", "approval_required"]


class CreateGroup(_ClosedBody, frozen=True):
    """A new group."""

    subject: Subject
    description: Description | UnsetType = UNSET
    join_approval_mode: JoinApprovalMode | UnsetType = UNSET


class UpdateGroup(_ClosedBody, frozen=True):
    """The settings to change; at least one is required."""

    subject: Subject | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    join_approval_mode: JoinApprovalMode | UnsetType = UNSET


class RemoveParticipants(_ClosedBody, frozen=True):
    """The participants to remove."""

    wa_ids: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=8)]


class JoinRequests(_ClosedBody, frozen=True):
    """The join requests to approve or reject."""

    join_request_ids: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=64)]


class ProblemDetail(_Body, frozen=True):
    """One mistake: its path, and the valid values. Never the invalid value."""

    path: str
    reason: str


class Problem(_Body, frozen=True):
    """The reason of a failure. `code` is for programs and stable; `message` can change."""

    code: str
    message: str
    details: tuple[ProblemDetail, ...] | UnsetType = UNSET
    meta_code: int | UnsetType = UNSET
    meta_subcode: int | UnsetType = UNSET
    meta_type: str | UnsetType = UNSET
    fbtrace_id: str | UnsetType = UNSET
    outcome: Literal["not_sent", "unknown"] | UnsetType = UNSET
    retryable: bool | UnsetType = UNSET
    category: str | UnsetType = UNSET


class ErrorEnvelope(_Body, frozen=True):
    """The envelope of every error response."""

    error: Problem
