"""Every error that wats raises on purpose, in one tree. No I/O.

    WatsError
    ├── ConfigError                       the operator: the configuration cannot work
    ├── CallerError                       the caller: HTTP 4xx
    │   ├── Unauthorized · InsufficientScope · RouteNotFound · MethodNotAllowed
    │   ├── PayloadTooLarge · LengthRequired · UploadTimeout
    │   ├── UnsupportedMediaType · MediaTypeMismatch
    │   ├── MalformedHTTP                 bytes that are not a request in HTTP/1.x
    │   ├── MalformedRequest              a body, query or path that cannot be used
    │   ├── WebhookRefused                a body that is not a webhook, or not from Meta
    │   ├── MessageNotFound · MediaNotFound · ConsumerNotFound · DeliveryNotFound
    │   │   · OutboxItemNotFound
    │   ├── TooManyPolls                  of one puller, in this process
    │   ├── RateLimited                   Meta's rate limit, before Graph is called
    │   ├── OutboxFull                    too many messages that are sent later
    │   ├── WindowClosed                  a free-form message outside of the service window
    │   └── IdempotencyError
    │       └── InvalidIdempotencyKey · IdempotencyConflict · IdempotencyInFlight
    │           · IdempotencyOutcomeUnknown
    ├── Overloaded                        too many bytes of requests, or files, in flight
    ├── ReplyError                        a handler: nothing was sent
    │   └── NoHandlerCall · NoMessage
    ├── NotStarted · ForkedApplication    an application under a foreign server
    ├── StoreError                        our database
    │   ├── StoreUnavailable · StoreNotConfigured · StoreClosed · StoreInUse
    │   │   ├── DatabaseMoved             its files are gone or replaced
    │   │   └── StoreOutcomeUnknown       the operation may have been carried out
    │   ├── MigrationFailed · SchemaMismatch
    │   └── CopyRefused · BackupRefused
    └── GraphError                        Meta
        └── GraphRefused · GraphUnreachable · GraphOutcomeUnknown · MediaUnusable

An error carries the data that a caller needs to react: a stable `code`, the HTTP `status` of its
response, and a `message` that never holds a value from a caller, a customer or Meta.
"""

from wats.errors.base import (
    MAX_SHOWN_ISSUES,
    ConfigError,
    ConfigIssue,
    Detail,
    WatsError,
)
from wats.errors.caller import (
    CallerError,
    ConsumerNotFound,
    DeliveryNotFound,
    IdempotencyConflict,
    IdempotencyError,
    IdempotencyInFlight,
    IdempotencyOutcomeUnknown,
    InsufficientScope,
    InvalidIdempotencyKey,
    LengthRequired,
    MalformedHTTP,
    MalformedRequest,
    MediaNotFound,
    MediaTypeMismatch,
    MessageNotFound,
    MethodNotAllowed,
    OutboxFull,
    OutboxItemNotFound,
    PayloadTooLarge,
    RateLimited,
    RouteNotFound,
    TooManyPolls,
    Unauthorized,
    UnsupportedMediaType,
    UploadTimeout,
    WebhookRefused,
    WindowClosed,
)
from wats.errors.graph import (
    GraphCause,
    GraphDiagnostics,
    GraphError,
    GraphOutcomeUnknown,
    GraphRefused,
    GraphUnreachable,
    MediaUnusable,
)
from wats.errors.service import (
    ForkedApplication,
    NoHandlerCall,
    NoMessage,
    NotStarted,
    Overloaded,
    ReplyError,
)
from wats.errors.store import (
    BackupRefused,
    CopyRefused,
    DatabaseMoved,
    MigrationFailed,
    SchemaMismatch,
    StoreClosed,
    StoreError,
    StoreInUse,
    StoreNotConfigured,
    StoreOutcomeUnknown,
    StoreUnavailable,
)

__all__ = [
    "MAX_SHOWN_ISSUES",
    "BackupRefused",
    "CallerError",
    "ConfigError",
    "ConfigIssue",
    "ConsumerNotFound",
    "CopyRefused",
    "DatabaseMoved",
    "DeliveryNotFound",
    "Detail",
    "ForkedApplication",
    "GraphCause",
    "GraphDiagnostics",
    "GraphError",
    "GraphOutcomeUnknown",
    "GraphRefused",
    "GraphUnreachable",
    "IdempotencyConflict",
    "IdempotencyError",
    "IdempotencyInFlight",
    "IdempotencyOutcomeUnknown",
    "InsufficientScope",
    "InvalidIdempotencyKey",
    "LengthRequired",
    "MalformedHTTP",
    "MalformedRequest",
    "MediaNotFound",
    "MediaTypeMismatch",
    "MediaUnusable",
    "MessageNotFound",
    "MethodNotAllowed",
    "MigrationFailed",
    "NoHandlerCall",
    "NoMessage",
    "NotStarted",
    "OutboxFull",
    "OutboxItemNotFound",
    "Overloaded",
    "PayloadTooLarge",
    "RateLimited",
    "ReplyError",
    "RouteNotFound",
    "SchemaMismatch",
    "StoreClosed",
    "StoreError",
    "StoreInUse",
    "StoreNotConfigured",
    "StoreOutcomeUnknown",
    "StoreUnavailable",
    "TooManyPolls",
    "Unauthorized",
    "UnsupportedMediaType",
    "UploadTimeout",
    "WatsError",
    "WebhookRefused",
    "WindowClosed",
]
