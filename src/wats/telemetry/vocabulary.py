"""Every word that telemetry can say: label values, and the metric families as data. No I/O.

The exposition, the diagnostics, the sinks, the documentation and the tests read this one table.
To change a name, a label or a value here is to change the contract with whoever reads `/metrics`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Final, TypeAlias


class LabelValue(StrEnum):
    """A closed list of label values; the value of a member is what the exposition shows.

    Members hash as the text that they are. `Enum` would hash them by name in Python code, ten
    times slower, and they are looked up on every request.
    """

    __hash__ = str.__hash__


class Method(LabelValue):
    """The method of a request; an invented one is `unknown`."""

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
    """The class of an HTTP status; `unknown` if there was none, or one that ends nothing (1xx)."""

    SUCCESS = "2xx"
    REDIRECTION = "3xx"
    CLIENT_ERROR = "4xx"
    SERVER_ERROR = "5xx"
    UNKNOWN = "unknown"


class Outcome(LabelValue):
    """How something ended."""

    SUCCESS = "success"
    ERROR = "error"
    SKIPPED = "skipped"
    DEDUPED = "deduped"


class EndpointFamily(LabelValue):
    """The part of the Graph API that a call went to."""

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
    """Where an outbox item is in its life."""

    PENDING = "pending"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"


class UpdateKind(LabelValue):
    """What the normaliser made of one part of a webhook."""

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
    """A question that the store answers; `open` and `close` are none."""

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


class ErrorCategory(LabelValue):
    """The category of a Graph error code."""

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


class AuthSurface(LabelValue):
    """Where somebody failed to prove who they are."""

    API = "api"
    TELEMETRY = "telemetry"
    WEBHOOK_VERIFY = "webhook_verify"
    WEBHOOK_SIGNATURE = "webhook_signature"


class RejectionReason(LabelValue):
    """Why a webhook request was refused: the code of the answer that it got."""

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
    UNKNOWN = "unknown"


class OTEL_ATTR:  # noqa: N801 - the name that the sinks' documentation has always had
    """The attribute keys that a sink can receive. There is no ninth."""

    HTTP_ROUTE: Final = "http.route"
    HTTP_METHOD: Final = "http.request.method"
    HTTP_STATUS_CODE: Final = "http.status_code"
    HTTP_STATUS_CLASS: Final = "http.response.status.class"
    WEBHOOK_UPDATE_KIND: Final = "wats.webhook.update_kind"
    GRAPH_ENDPOINT_FAMILY: Final = "wats.graph.endpoint_family"
    PERSISTENCE_ADAPTER: Final = "wats.persistence.adapter"
    OPERATION_OUTCOME: Final = "wats.operation.outcome"


class Kind(StrEnum):
    """The kind of a metric family, in the order in which the diagnostics list them."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


class FamilySet(StrEnum):
    """What an operator can have exposed: the contract, or more than that."""

    CONTRACT = "contract"
    OPERATOR = "operator"


class Subject(StrEnum):
    """What must be there for a family to be exposed."""

    ALWAYS = "always"
    STORE = "store"
    OUTBOX = "outbox"


UNMATCHED: Final = "unmatched"
"""The `route` of a request that no route serves."""


@dataclass(frozen=True, slots=True)
class RouteLabel:
    """A route as telemetry knows it: its template, never a path, and the methods that it serves."""

    template: str
    methods: tuple[Method, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """What there is to tell of in this process: the routes, and the store if it has one."""

    routes: tuple[RouteLabel, ...]
    adapter: Adapter | None

    def have(self, subject: Subject) -> bool:
        """Tell whether *subject* is among them."""
        return subject is Subject.ALWAYS or (subject is Subject.STORE and self.adapter is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A label key, its closed values in order, and which of them any other value becomes.

    The values of `route` are those of the route table, so they are empty here. `attribute` is what
    sinks know the label as.
    """

    key: str
    attribute: str
    values: tuple[str, ...]
    other: str

    def clamp(self, value: object) -> str:
        """Return the known value that equals *value*, as plain text, or else `other`."""
        return next((known for known in self.values if known == value), self.other)


Values: TypeAlias = tuple[str, ...]
"""The label values of one series, in the order of its family's labels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Family:
    """A metric family.

    Attributes:
        name: Its name in the exposition and towards sinks.
        kind: Counter, histogram or gauge.
        help: Its HELP text.
        labels: Its labels, sorted by key, as the exposition has them.
        attributes: The keys that a sink receives, in order; empty if sinks are not told.
        buckets: The upper bounds of a histogram, without the last one, which is infinite.
        set: The smallest set that it belongs to.
        needs: What must be there for it to be exposed.
        initial: The series that are exposed before anything happened, so that a first failure is
            an increase and not a new series.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[Label, ...]
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    set: FamilySet = FamilySet.CONTRACT
    needs: Subject = Subject.ALWAYS
    initial: Callable[[Subjects], Iterable[Values]] = lambda _: ()


LATENCY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def _label(key: str, attribute: str, values: type[LabelValue], other: LabelValue) -> Label:
    plain = tuple(member.value for member in values)
    return Label(key=key, attribute=attribute, values=plain, other=other.value)


_ROUTE = Label(key="route", attribute=OTEL_ATTR.HTTP_ROUTE, values=(), other=UNMATCHED)
_METHOD = _label("method", OTEL_ATTR.HTTP_METHOD, Method, Method.UNKNOWN)
_STATUS_CLASS = _label(
    "status_class", OTEL_ATTR.HTTP_STATUS_CLASS, StatusClass, StatusClass.UNKNOWN
)
_OUTCOME = _label("outcome", OTEL_ATTR.OPERATION_OUTCOME, Outcome, Outcome.ERROR)
_UPDATE_KIND = _label("update_kind", OTEL_ATTR.WEBHOOK_UPDATE_KIND, UpdateKind, UpdateKind.UNKNOWN)
_ENDPOINT_FAMILY = _label(
    "endpoint_family", OTEL_ATTR.GRAPH_ENDPOINT_FAMILY, EndpointFamily, EndpointFamily.UNKNOWN
)
_ADAPTER = _label("adapter", OTEL_ATTR.PERSISTENCE_ADAPTER, Adapter, Adapter.UNKNOWN)
_STATE = _label("state", "", OutboxState, OutboxState.PENDING)

_ENDED = (Outcome.SUCCESS, Outcome.ERROR)
_ANSWERED = (StatusClass.SUCCESS, StatusClass.CLIENT_ERROR, StatusClass.SERVER_ERROR)
_KNOWN_ENDPOINTS = tuple(f for f in EndpointFamily if f is not EndpointFamily.UNKNOWN)


def _initial_requests(subjects: Subjects) -> Iterable[Values]:
    for route in subjects.routes:
        yield from product(route.methods, (route.template,), _ANSWERED)
    yield (Method.GET, UNMATCHED, StatusClass.CLIENT_ERROR)


def _initial_durations(subjects: Subjects) -> Iterable[Values]:
    for route in subjects.routes:
        yield (route.template, StatusClass.SUCCESS if route.methods else StatusClass.CLIENT_ERROR)


def _initial_graph(_: Subjects) -> Iterable[Values]:
    failed = (StatusClass.CLIENT_ERROR, StatusClass.SERVER_ERROR, StatusClass.UNKNOWN)
    yield from product(_KNOWN_ENDPOINTS, (Outcome.SUCCESS,), (StatusClass.SUCCESS,))
    yield from product(_KNOWN_ENDPOINTS, (Outcome.ERROR,), failed)


HTTP_REQUESTS = Family(
    name="http_requests_total",
    kind=Kind.COUNTER,
    help="Inbound HTTP requests to the service.",
    labels=(_METHOD, _ROUTE, _STATUS_CLASS),
    attributes=(
        OTEL_ATTR.HTTP_ROUTE,
        OTEL_ATTR.HTTP_METHOD,
        OTEL_ATTR.HTTP_STATUS_CODE,
        OTEL_ATTR.HTTP_STATUS_CLASS,
    ),
    initial=_initial_requests,
)

HTTP_REQUEST_DURATION = Family(
    name="http_request_duration_seconds",
    kind=Kind.HISTOGRAM,
    help="Request duration in seconds.",
    labels=(_ROUTE, _STATUS_CLASS),
    attributes=HTTP_REQUESTS.attributes,
    buckets=LATENCY_BUCKETS,
    initial=_initial_durations,
)

WEBHOOK_NORMALIZATION = Family(
    name="webhook_normalization_total",
    kind=Kind.COUNTER,
    help="Webhook envelopes normalized by update kind and outcome.",
    labels=(_OUTCOME, _UPDATE_KIND),
    attributes=(OTEL_ATTR.WEBHOOK_UPDATE_KIND, OTEL_ATTR.OPERATION_OUTCOME),
    initial=lambda _: product(_ENDED, UpdateKind),
)

GRAPH_OPERATIONS = Family(
    name="graph_operations_total",
    kind=Kind.COUNTER,
    help="Outbound Graph API calls by endpoint family and status class.",
    labels=(_ENDPOINT_FAMILY, _OUTCOME, _STATUS_CLASS),
    attributes=(
        OTEL_ATTR.GRAPH_ENDPOINT_FAMILY,
        OTEL_ATTR.HTTP_STATUS_CODE,
        OTEL_ATTR.HTTP_STATUS_CLASS,
        OTEL_ATTR.OPERATION_OUTCOME,
    ),
    initial=_initial_graph,
)

SEND_OUTCOMES = Family(
    name="send_outcomes_total",
    kind=Kind.COUNTER,
    help="Message send attempts by outcome.",
    labels=(_ENDPOINT_FAMILY, _OUTCOME),
    attributes=(OTEL_ATTR.GRAPH_ENDPOINT_FAMILY, OTEL_ATTR.OPERATION_OUTCOME),
    initial=lambda _: product(_KNOWN_ENDPOINTS, _ENDED),
)

PERSISTENCE_OPERATIONS = Family(
    name="persistence_operations_total",
    kind=Kind.COUNTER,
    help="Persistence store operations by adapter and outcome.",
    labels=(_ADAPTER, _OUTCOME),
    attributes=(OTEL_ATTR.PERSISTENCE_ADAPTER, OTEL_ATTR.OPERATION_OUTCOME),
    needs=Subject.STORE,
    initial=lambda subjects: product((subjects.adapter or Adapter.UNKNOWN,), _ENDED),
)

OUTBOX_PROCESSED = Family(
    name="outbox_processed_total",
    kind=Kind.COUNTER,
    help="Outbox worker items processed by outcome.",
    labels=(_OUTCOME,),
    attributes=(OTEL_ATTR.OPERATION_OUTCOME,),
    needs=Subject.OUTBOX,
)

OUTBOX_DEPTH = Family(
    name="outbox_depth",
    kind=Kind.GAUGE,
    help="Number of items in the persistence outbox, partitioned by adapter and state.",
    labels=(_ADAPTER, _STATE),
    needs=Subject.OUTBOX,
)

FAMILIES: Final = (
    HTTP_REQUESTS,
    HTTP_REQUEST_DURATION,
    WEBHOOK_NORMALIZATION,
    GRAPH_OPERATIONS,
    SEND_OUTCOMES,
    PERSISTENCE_OPERATIONS,
    OUTBOX_PROCESSED,
    OUTBOX_DEPTH,
)
"""Every family that can be exposed, in the order of the exposition. There is no other."""


def families_of(chosen: FamilySet) -> tuple[Family, ...]:
    """Return the families of a set, in the order of the exposition; `operator` holds them all."""
    return tuple(f for f in FAMILIES if f.set is FamilySet.CONTRACT or f.set is chosen)


_CLASSES: Final = {
    2: StatusClass.SUCCESS,
    3: StatusClass.REDIRECTION,
    4: StatusClass.CLIENT_ERROR,
    5: StatusClass.SERVER_ERROR,
}


def status_class(status: int) -> StatusClass:
    """Return the class of an HTTP status; 0, 1xx and what is no status are `unknown`."""
    return _CLASSES.get(status // 100, StatusClass.UNKNOWN)
