"""The vocabulary of telemetry: the closed lists of values. No I/O.

`families.py` has the families that use these values. A change of a value here changes the contract
with every reader of `/metrics`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class LabelValue(StrEnum):
    """A closed list of label values; the value of a member is its exposed text.

    Members hash as their text. `Enum` would hash them by name in Python code, ten times slower, and
    they are looked up on every request.
    """

    __hash__ = str.__hash__


class Method(LabelValue):
    """The method of a request; an unknown one is `unknown`."""

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"
    OPTIONS = "OPTIONS"
    TRACE = "TRACE"
    CONNECT = "CONNECT"
    UNKNOWN = "unknown"


class StatusClass(LabelValue):
    """The class of an HTTP status; `unknown` without a status, and for interim ones (1xx)."""

    SUCCESS = "2xx"
    REDIRECTION = "3xx"
    CLIENT_ERROR = "4xx"
    SERVER_ERROR = "5xx"
    UNKNOWN = "unknown"


class Outcome(LabelValue):
    """The outcome of an operation."""

    SUCCESS = "success"
    ERROR = "error"
    SKIPPED = "skipped"
    DEDUPED = "deduped"


class EndpointFamily(LabelValue):
    """The part of the Graph API that a call used."""

    MESSAGES = "messages"
    MEDIA = "media"
    TEMPLATES = "templates"
    GROUPS = "groups"
    FLOWS = "flows"
    UNKNOWN = "unknown"


class Adapter(LabelValue):
    """The database behind the store."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"
    UNKNOWN = "unknown"


class OutboxState(LabelValue):
    """The state of an outbox item; `dead` if it failed, or if its outcome is unknown."""

    PENDING = "pending"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    DEAD = "dead"


class InboxState(LabelValue):
    """The state of a delivery; `orphaned` are those of handlers that are no longer configured."""

    PENDING = "pending"
    LEASED = "leased"
    RETRY = "retry"
    DEAD = "dead"
    ORPHANED = "orphaned"


class UpkeepTask(LabelValue):
    """A task of the upkeep, which one process does for the whole service."""

    PURGE = "purge"
    CHECKPOINT = "checkpoint"
    MEASURE = "measure"


class UpdateKind(LabelValue):
    """The kind of an update; a part of a webhook that gives no update has the expected kind."""

    MESSAGE = "message"
    STATUS = "status"
    ACCOUNT = "account"
    UNKNOWN = "unknown"
    CALL_CONNECT = "callConnect"
    CALL_TERMINATE = "callTerminate"
    CALL_STATUS = "callStatus"
    GROUP_LIFECYCLE = "groupLifecycle"
    GROUP_PARTICIPANTS = "groupParticipants"
    GROUP_SETTINGS = "groupSettings"
    GROUP_STATUS = "groupStatus"
    USER_PREFERENCES = "userPreferences"
    SYSTEM = "system"
    CHAT_OPENED = "chatOpened"
    PAYMENT_STATUS = "paymentStatus"
    ERROR = "error"
    USER_ACTION = "userAction"
    USER_ID_UPDATE = "userIdUpdate"
    TEMPLATE = "template"
    HISTORY = "history"
    MESSAGE_ECHO = "messageEcho"
    APP_STATE_SYNC = "appStateSync"
    FLOW = "flow"
    AUTOMATIC_EVENT = "automaticEvent"
    STANDBY = "standby"
    HANDOVER = "handover"


class StoreOperation(LabelValue):
    """An operation of the store; `open` and `close` are not included."""

    HEALTH = "health"
    RECEIVE = "receive"
    CLAIM = "claim"
    RENEW = "renew"
    SETTLE = "settle"
    DEPTH = "depth"
    RESERVE = "reserve"
    COMPLETE = "complete"
    FAIL = "fail"
    DOUBT = "doubt"
    RECORD = "record"
    LIST = "list"
    GET = "get"
    STATUSES = "statuses"
    WINDOW = "window"
    PURGE = "purge"


class FinalOutcome(LabelValue):
    """The final status of an outbound message, from Meta's status webhooks."""

    DELIVERED = "delivered"
    READ = "read"
    PLAYED = "played"
    FAILED = "failed"


class ErrorCategory(LabelValue):
    """The category of a Graph error code; `none` for a message that did not fail."""

    AUTHORIZATION = "authorization"
    THROTTLING = "throttling"
    INTEGRITY = "integrity"
    SEND_MESSAGE = "send_message"
    TEMPLATE = "template"
    FLOW = "flow"
    BLOCK_USER = "block_user"
    MARKETING_MESSAGES_LITE = "marketing_messages_lite"
    CALLING = "calling"
    PLATFORM = "platform"
    GROUPS = "groups"
    REGISTRATION = "registration"
    MEDIA = "media"
    UNKNOWN = "unknown"
    NONE = "none"


class AuthSurface(LabelValue):
    """The surface at which authentication failed."""

    API = "api"
    TELEMETRY = "telemetry"
    WEBHOOK_VERIFY = "webhook_verify"
    WEBHOOK_SIGNATURE = "webhook_signature"


class RejectionReason(LabelValue):
    """The reason for refusing a webhook request: the code of its response."""

    INVALID_MODE = "invalid_mode"
    INVALID_VERIFY_TOKEN = "invalid_verify_token"  # noqa: S105 - a reason, no token
    MISSING_CHALLENGE = "missing_challenge"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    MISSING_BODY = "missing_body"
    MISSING_SIGNATURE = "missing_signature"
    INVALID_SIGNATURE_FORMAT = "invalid_signature_format"
    SIGNATURE_MISMATCH = "signature_mismatch"
    INVALID_JSON = "invalid_json"
    INVALID_ENVELOPE = "invalid_envelope"
    MISSING_OBJECT_FIELD = "missing_object_field"
    UNSUPPORTED_OBJECT = "unsupported_object"
    INVALID_ENTRY_ARRAY = "invalid_entry_array"
    UNKNOWN_NUMBER = "unknown_number"
    UNKNOWN = "unknown"


class SinkMethod(LabelValue):
    """A method of a sink; it must have the first two."""

    INCREMENT_COUNTER = "increment_counter"
    RECORD_HISTOGRAM = "record_histogram"
    RECORD_SPAN = "record_span"
    RECORD_EVENT = "record_event"
    SET_GAUGE = "set_gauge"


class SeriesCount(LabelValue):
    """The number of series that are exposed now, or that can ever exist."""

    LIVE = "live"
    BUDGET = "budget"


class LifecycleEvent(LabelValue):
    """An event in the life of the service, for sinks; the value is the event's name."""

    STARTED = "wats.started"
    DRAINING = "wats.draining"
    WORKER_REPLACED = "wats.worker.replaced"
    STORE_LOST = "wats.store.lost"
    STORE_BACK = "wats.store.back"


class SpanName(LabelValue):
    """The operations whose beginning and end a sink receives."""

    HTTP_REQUEST = "wats.http.request"
    GRAPH_REQUEST = "wats.graph.request"
    DISPATCH = "wats.dispatch"


class OTEL_ATTR:  # noqa: N801 - the name in the sinks' documentation
    """The attribute keys of the families of the contract."""

    HTTP_ROUTE: Final = "http.route"
    HTTP_METHOD: Final = "http.request.method"
    HTTP_STATUS_CODE: Final = "http.status_code"
    HTTP_STATUS_CLASS: Final = "http.response.status.class"
    WEBHOOK_UPDATE_KIND: Final = "wats.webhook.update_kind"
    GRAPH_ENDPOINT_FAMILY: Final = "wats.graph.endpoint_family"
    PERSISTENCE_ADAPTER: Final = "wats.persistence.adapter"
    OPERATION_OUTCOME: Final = "wats.operation.outcome"


class OPERATOR_ATTR:  # noqa: N801 - named like the other one
    """The attribute keys that the families of set `operator` have beyond these."""

    AUTH_SURFACE: Final = "wats.auth.surface"
    DELIVERY_OUTCOME: Final = "wats.delivery.outcome"
    DISPATCH_TARGET: Final = "wats.dispatch.target"
    ERROR_CATEGORY: Final = "wats.graph.error_category"
    INBOX_STATE: Final = "wats.inbox.state"
    OUTBOX_STATE: Final = "wats.outbox.state"
    PERSISTENCE_OPERATION: Final = "wats.persistence.operation"
    REJECTION_REASON: Final = "wats.webhook.rejection_reason"
    UPKEEP_TASK: Final = "wats.upkeep.task"


class Kind(StrEnum):
    """The kind of a metric family, in the order in which the diagnostics list them."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


class FamilySet(StrEnum):
    """The set of families that an operator can expose: the contract, or more."""

    CONTRACT = "contract"
    OPERATOR = "operator"


UNMATCHED: Final = "unmatched"
"""The `route` of a request without a route."""


@dataclass(frozen=True, slots=True)
class RouteLabel:
    """A route in telemetry: its template, never a path, and the methods that it serves."""

    template: str
    methods: tuple[Method, ...] = ()


_CLASSES: Final = {
    2: StatusClass.SUCCESS,
    3: StatusClass.REDIRECTION,
    4: StatusClass.CLIENT_ERROR,
    5: StatusClass.SERVER_ERROR,
}


def status_class(status: int) -> StatusClass:
    """Return the class of an HTTP status; 0, 1xx and invalid values are `unknown`."""
    return _CLASSES.get(status // 100, StatusClass.UNKNOWN)
