"""The one table of routes, and how a path finds its row.

The table gives the router, the `route` label of the metrics, the inventory of `/status`, the
OpenAPI document and the posture towards strangers. What is not in it cannot be served, and what
is in it cannot be forgotten anywhere.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias
from urllib.parse import quote

from wats.config import Profile
from wats.telemetry.vocabulary import Method
from wats.web import bodies, conversations, groups, messages, ops, webhooks
from wats.web.exchange import Request, Response, Scope
from wats.web.parts import HOOK_LABEL, Parts

Handle: TypeAlias = Callable[[Parts, Request], Awaitable[Response]]
Match: TypeAlias = tuple["Route", dict[str, str]]


class Posture(Enum):
    """How a route meets a request without a valid token."""

    OPEN = "open"
    """It answers; what it checks, it checks itself."""
    API = "api"
    """401."""
    HIDDEN = "hidden"
    """The catch-all 404: the route does not exist."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query or header parameter, for the OpenAPI document."""

    name: str
    place: str
    schema: Mapping[str, Any]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of a route: who answers it, and what the OpenAPI document says of it.

    Attributes:
        answer: The type of the 200 body, or its media types where it is not JSON.
        body: The type of the request body; `bytes` where it is checked elsewhere.
        problems: The statuses of failures beyond those that the route's posture brings.
    """

    method: Method
    handle: Handle
    name: str
    summary: str
    answer: Any
    body: Any = None
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One row: what the router matches, what telemetry calls it, who may ask, what it answers.

    In `path`, `:name` stands for one segment and `*name` for all that follows or stands between,
    slashes included. `label` is the template in metrics and inventories.
    """

    path: str
    label: str
    posture: Posture
    tag: str
    operations: tuple[Operation, ...]

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods that are answered, HEAD beside every GET, in the order of the table."""
        listed: list[Method] = []
        for operation in self.operations:
            listed.append(operation.method)
            if operation.method is Method.GET:
                listed.append(Method.HEAD)
        return tuple(listed)

    def operation(self, method: Method) -> Operation | None:
        """Return what answers *method*; HEAD is answered as GET is."""
        wanted = Method.GET if method is Method.HEAD else method
        return next((each for each in self.operations if each.method is wanted), None)


UNMATCHED = Route("", "unmatched", Posture.HIDDEN, "", ())
"""The row of every path that is in no other row. Nobody has a token for it."""

_TEXT = {"type": "string"}
_KEY = Parameter("Idempotency-Key", "header", {"type": "string", "minLength": 1, "maxLength": 256})
_LIMIT = Parameter(
    "limit", "query", {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}
)
_CURSOR = Parameter("cursor", "query", {"type": "string", "minLength": 1, "maxLength": 1024})
_HUB = tuple(
    Parameter(name, "query", _TEXT, required=True)
    for name in ("hub.mode", "hub.verify_token", "hub.challenge")
)
_SIGNATURE = Parameter("x-hub-signature-256", "header", _TEXT, required=True)
_PAGING = tuple(Parameter(name, "query", _TEXT) for name in ("limit", "after", "before"))


def route_table(profile: Profile, *, groups_enabled: bool) -> tuple[Route, ...]:
    """Return every route of a service with *profile*, in the order of its inventory."""
    prefix = profile.service.api_prefix
    table = (*_ops_routes(), _webhook_route(profile.webhook.path), *_message_routes(prefix))
    return (*table, *_group_routes(prefix)) if groups_enabled else table


def _ops_routes() -> Sequence[Route]:
    health = Operation(
        Method.GET,
        ops.healthz,
        "getHealth",
        "Liveness probe: respond if the process is running.",
        bodies.Health,
    )
    ready = Operation(
        Method.GET,
        ops.readyz,
        "getReadiness",
        "Readiness probe: check the store and the dispatcher.",
        bodies.Health,
        problems=(503,),
    )
    document = Operation(
        Method.GET,
        ops.openapi,
        "getOpenApi",
        "Return this document, in full to callers with a valid token.",
        dict[str, Any],
    )
    status = Operation(
        Method.GET, ops.status, "getStatus", "Return a snapshot for operators.", bodies.Status
    )
    metrics = Operation(
        Method.GET,
        ops.metrics,
        "getMetrics",
        "Return the metrics for Prometheus.",
        ops.METRICS_TYPES,
    )
    diagnostics = Operation(
        Method.GET,
        ops.diagnostics,
        "getDiagnostics",
        "Return diagnostics of bounded size for support.",
        bodies.Diagnostics,
    )
    return (
        Route("/healthz", "/healthz", Posture.OPEN, "status", (health,)),
        Route("/readyz", "/readyz", Posture.OPEN, "status", (ready,)),
        Route("/openapi.json", "/openapi.json", Posture.OPEN, "openapi", (document,)),
        Route("/status", "/status", Posture.HIDDEN, "status", (status,)),
        Route("/metrics", "/metrics", Posture.HIDDEN, "status", (metrics,)),
        Route("/debug/diagnostics", "/debug/diagnostics", Posture.HIDDEN, "status", (diagnostics,)),
    )


def _webhook_route(path: str) -> Route:
    verify = Operation(
        Method.GET,
        webhooks.verify,
        "verifyWebhook",
        "Verify the webhook: respond to Meta's challenge.",
        ("text/plain",),
        parameters=_HUB,
        problems=(400, 401),
    )
    receive = Operation(
        Method.POST,
        webhooks.receive,
        "receiveWebhook",
        "Receive a signed webhook from Meta, and store it before the response.",
        bodies.WebhookReceipt,
        body=dict[str, Any],
        parameters=(_SIGNATURE,),
        problems=(400, 401, 413, 503),
    )
    return Route(path, HOOK_LABEL, Posture.OPEN, "webhook", (verify, receive))


def _message_routes(prefix: str) -> Sequence[Route]:
    send_text = Operation(
        Method.POST,
        messages.send_text,
        "sendText",
        "Send a text message.",
        bodies.GraphAnswer,
        body=bodies.TextMessage,
        parameters=(_KEY,),
        problems=(400, 409, 413, 501, 502, 503),
    )
    send = Operation(
        Method.POST,
        messages.send,
        "sendMessage",
        "Send a message of any type, in Graph's format.",
        bodies.GraphAnswer,
        body=bodies.GraphMessage,
        parameters=(_KEY,),
        problems=(400, 409, 413, 501, 502, 503),
    )
    listing = Operation(
        Method.GET,
        messages.list_messages,
        "listMessages",
        "List inbound and outbound messages, newest record first.",
        bodies.MessageList,
        parameters=(_LIMIT, _CURSOR),
        problems=(400, 503),
    )
    one = Operation(
        Method.GET,
        messages.get_message,
        "getMessage",
        "Return one message by its WhatsApp id.",
        bodies.MessageView,
        problems=(400, 404, 503),
    )
    window = Operation(
        Method.GET,
        conversations.window,
        "getWindow",
        "Return whether a customer's service window is open.",
        bodies.WindowView,
        problems=(400, 404, 503),
    )
    text_path, path = f"{prefix}/messages/text", f"{prefix}/messages"
    window_path = f"{prefix}/conversations/*phone/window"
    window_label = f"{prefix}/conversations/:phone/window"
    return (
        Route(text_path, text_path, Posture.API, "messages", (send_text,)),
        Route(path, path, Posture.API, "messages", (listing, send)),
        Route(f"{path}/*id", f"{path}/:id", Posture.API, "messages", (one,)),
        Route(window_path, window_label, Posture.API, "conversations", (window,)),
    )


def _group_operation(
    method: Method, handle: Handle, name: str, summary: str, **more: Any
) -> Operation:
    too_large = (413,) if "body" in more else ()
    problems = (400, *too_large, 502, 503)
    return Operation(method, handle, name, summary, bodies.GraphAnswer, problems=problems, **more)


def _group_routes(prefix: str) -> Sequence[Route]:
    operation = _group_operation
    rows: tuple[tuple[str, tuple[Operation, ...]], ...] = (
        (
            f"{prefix}/groups",
            (
                operation(
                    Method.GET, groups.list_groups, "listGroups", "List groups.", parameters=_PAGING
                ),
                operation(
                    Method.POST,
                    groups.create,
                    "createGroup",
                    "Create a group.",
                    body=bodies.CreateGroup,
                ),
            ),
        ),
        (
            f"{prefix}/groups/:groupId",
            (
                operation(
                    Method.GET,
                    groups.get,
                    "getGroup",
                    "Return a group.",
                    parameters=(Parameter("fields", "query", _TEXT),),
                ),
                operation(
                    Method.POST,
                    groups.update,
                    "updateGroup",
                    "Change a group.",
                    body=bodies.UpdateGroup,
                ),
                operation(Method.DELETE, groups.delete, "deleteGroup", "Delete a group."),
            ),
        ),
        (
            f"{prefix}/groups/:groupId/invite-link",
            (
                operation(Method.GET, groups.get_link, "getInviteLink", "Return the invite link."),
                operation(
                    Method.POST, groups.reset_link, "resetInviteLink", "Reset the invite link."
                ),
            ),
        ),
        (
            f"{prefix}/groups/:groupId/participants",
            (
                operation(
                    Method.DELETE,
                    groups.remove,
                    "removeParticipants",
                    "Remove participants.",
                    body=bodies.RemoveParticipants,
                ),
            ),
        ),
        (
            f"{prefix}/groups/:groupId/join-requests",
            (
                operation(
                    Method.GET,
                    groups.list_requests,
                    "listJoinRequests",
                    "List join requests.",
                    parameters=_PAGING[:2],
                ),
                operation(
                    Method.POST,
                    groups.approve,
                    "approveJoinRequests",
                    "Approve join requests.",
                    body=bodies.JoinRequests,
                ),
                operation(
                    Method.DELETE,
                    groups.reject,
                    "rejectJoinRequests",
                    "Reject join requests.",
                    body=bodies.JoinRequests,
                ),
            ),
        ),
    )
    return tuple(Route(path, path, Posture.API, "groups", operations) for path, operations in rows)


class Router:
    """Finds the row of a path: one look-up, and a few patterns below the API prefix."""

    def __init__(self, table: Sequence[Route], api_prefix: str) -> None:
        self._exact: dict[str, Match] = {
            row.path: (row, {}) for row in table if not _variable(row.path)
        }
        self._patterns = [(_pattern(row.path), row) for row in table if _variable(row.path)]
        self._below = f"{api_prefix}/"
        self._unmatched: Match = (UNMATCHED, {})

    def match(self, path: str) -> Match:
        """Return the row of *path* and its variable parts, still percent-encoded."""
        found = self._exact.get(path, self._unmatched)
        # Asked in this order, a path of the operators takes as long as one that does not exist.
        if path.startswith(self._below) and found[0] is UNMATCHED:
            for pattern, row in self._patterns:
                if (match := pattern.fullmatch(path)) is not None:
                    return row, match.groupdict()
        return found


def _variable(path: str) -> bool:
    return ":" in path or "*" in path


def _pattern(path: str) -> re.Pattern[str]:
    source = re.escape(path).replace(r"\*", "*")
    source = re.sub(r"\*(\w+)", r"(?P<\1>.*)", source)
    return re.compile(re.sub(r":(\w+)", r"(?P<\1>[^/]+)", source), re.DOTALL)


_UNQUOTED = "/:@!$&'()*+,;=~"


def _below(root_path: str, path: str, decoded: str) -> str:
    """Return the part of *path* below *root_path*, which servers give decoded."""
    for whole, root in ((path, quote(root_path, safe=_UNQUOTED)), (decoded, root_path)):
        if f"{whole}/".startswith(f"{root}/"):
            rest = whole[len(root) :] or "/"
            return rest if whole is path else quote(rest, safe=_UNQUOTED)
    return path


_DOT_SEGMENT = re.compile(r"(?:\.|%2e){1,2}", re.IGNORECASE)


def request_path(scope: Scope) -> str:
    """Return the path that is matched: as sent, still percent-encoded, dot segments resolved.

    Browsers and proxies resolve `/x/../status` before they send it, so it means `/status` here as
    well. The place where the application is mounted is not part of its own paths.
    """
    raw_path: bytes = scope.get("raw_path") or quote(scope["path"], safe=_UNQUOTED).encode()
    path = raw_path.decode("latin-1").replace("\\", "/")
    if root_path := scope.get("root_path"):
        path = _below(root_path, path, scope["path"])
    if "/." not in path and "/%2" not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for place, segment in enumerate(segments):
        last = place == len(segments) - 1
        if not _DOT_SEGMENT.fullmatch(segment):
            kept.append(segment)
            continue
        if len(segment.lower().replace("%2e", ".")) == 2 and kept:
            kept.pop()
        if last:
            kept.append("")
    return "/" + "/".join(kept)
