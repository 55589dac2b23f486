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
    """The service answers."""

    ok: bool
    service: str


class FeatureFlags(_Body, frozen=True):
    """What is switched on."""

    group_routes: bool
    persistence: bool


class StoreView(_Body, frozen=True):
    """The health of the database; where it is, is not told."""

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
    """Which Graph API is spoken."""

    api_version: str


class AuthShape(_Body, frozen=True):
    """That there is an access token."""

    access_token: str


class ServiceShape(_Body, frozen=True):
    """Where the API is served."""

    host: str
    port: int
    api_prefix: str


class WebhookShape(_Body, frozen=True):
    """How webhooks are taken."""

    path: str
    verify_token: str
    app_secret: str
    max_body_bytes: int


class ConfigShape(_Body, frozen=True):
    """What is configured, without what is secret."""

    graph: GraphShape
    auth: AuthShape
    service: ServiceShape
    webhook: WebhookShape


class Diagnostics(_Body, frozen=True):
    """A bounded snapshot for a support request."""

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
    """What became of a webhook's updates."""

    status: Literal["ok"]
    received: Count
    dispatched: Count
    skipped: Count


class TextMessage(_Body, frozen=True):
    """A text for one person."""

    to: Phone
    text: Text
    preview_url: bool | UnsetType = UNSET


class TextContent(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a message of the type `text`."""

    body: Text
    preview_url: bool | UnsetType = UNSET


class TypedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of any type in Graph's own form; it is forwarded as it is.

    Its content stands under the key that `type` names: an array for `contacts`, an object for
    every other type. It is for `to`, for `recipient`, or both.
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
    """Marks a customer's message as read, and shows them that an answer is being written."""

    messaging_product: Literal["whatsapp"]
    status: Literal["read"]
    message_id: Id
    typing_indicator: dict[str, Any] | UnsetType = UNSET


GraphMessage: TypeAlias = TypedMessage | ReadMark


class GraphAnswer(msgspec.Struct, frozen=True):
    """What Meta answered; an empty object if it took the request and said nothing readable."""


class MessageView(_Body, frozen=True):
    """What is known of one message; its content is not kept."""

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
    """A page of messages, the last recorded first."""

    items: tuple[MessageView, ...]
    next_cursor: str | None


class WindowView(_Body, frozen=True):
    """A customer's service window, as far as we have seen their messages."""

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
    """What to change of a group: at least one of these."""

    subject: Subject | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    join_approval_mode: JoinApprovalMode | UnsetType = UNSET


class RemoveParticipants(_ClosedBody, frozen=True):
    """Who is to leave a group."""

    wa_ids: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=8)]


class JoinRequests(_ClosedBody, frozen=True):
    """Which requests to join a group are meant."""

    join_request_ids: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=64)]


class ProblemDetail(_Body, frozen=True):
    """One mistake: where it is, as a path, and what belongs there. Never what was there."""

    path: str
    reason: str


class Problem(_Body, frozen=True):
    """Why a request failed. `code` is for machines and does not change; `message` may."""

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
    """What every failure is told in."""

    error: Problem
