"""Routes as values, and the router. `wats.web.table` has all routes."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from wats.config.numbers import CONSUME, NUMBER_SCOPES
from wats.telemetry.contract.values import Method
from wats.web.exchange import Request, Response, Scope
from wats.web.parts import Parts
from wats.web.problems import OWN_FORM, ErrorForm

Handle: TypeAlias = Callable[[Parts, Request], Awaitable[Response]]
Match: TypeAlias = tuple["Route", dict[str, str]]


class Posture(Enum):
    """The posture of a route towards a request without a valid token."""

    OPEN = "open"
    """It is open; its handler makes any checks itself."""
    API = "api"
    """401. If `numbers` are configured, the path exists for each number too."""
    HIDDEN = "hidden"
    """The catch-all 404: the route does not exist."""
    ADMIN = "admin"
    """The catch-all 404, also with a token for telemetry."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query or header parameter, for the OpenAPI document."""

    name: str
    place: str
    schema: Mapping[str, Any]
    required: bool = False


JSON_TYPE = "application/json"
FORM_TYPE = "multipart/form-data"

PREFER = Parameter("Prefer", "header", {"type": "string", "pattern": "handling=(strict|lenient)"})
"""Of operations with a body of ours: whether unknown keys are refused, or ignored as by default."""

ASYNC_PREFER = Parameter(
    "Prefer", "header", {"type": "string", "pattern": "respond-async|handling=(strict|lenient)"}
)
"""Of operations that send a message: whether it is accepted into the outbox and sent later."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of a route: its handler, and its entry in the OpenAPI document.

    Attributes:
        answer: The type of the 200 body, or its media types where it is not JSON.
        body: The type of the request body; `bytes` where it is checked elsewhere.
        body_type: The media type of the request body.
        needs_body: Whether a request without a body is refused.
        accepted: The type of the 202 body, if the client may prefer `respond-async`.
        problems: The statuses of failures beyond those of the route's posture and of its body.
        schemas: Further JSON schemas of the request body, by their names.
    """

    method: Method
    handle: Handle
    name: str
    summary: str
    answer: Any
    body: Any = None
    body_type: str = JSON_TYPE
    needs_body: bool = True
    parameters: tuple[Parameter, ...] = ()
    accepted: Any = None
    problems: tuple[int, ...] = ()
    schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table.

    It has the pattern of the router, the label of telemetry, the posture, the operations, and the
    form of errors. In `path`, `:name` matches one segment and `*name` all that follow or are
    between, slashes included. `label` is the template in metrics and inventories; rows may share
    one.
    """

    path: str
    label: str
    posture: Posture
    tag: str
    operations: tuple[Operation, ...]
    errors: ErrorForm = OWN_FORM

    @property
    def methods(self) -> tuple[Method, ...]:
        """The supported methods, HEAD in addition to every GET, in the order of the table."""
        listed: list[Method] = []
        for operation in self.operations:
            listed.append(operation.method)
            if operation.method is Method.GET:
                listed.append(Method.HEAD)
        return tuple(listed)

    @property
    def has_numbers(self) -> bool:
        """Whether the route exists for each business number too.

        A puller has its own numbers, and the paths of Graph name the number themselves.
        """
        return self.posture is Posture.API and self.tag not in {"updates", "graph"}

    def scopes(self, method: Method) -> frozenset[str]:
        """Return the scopes of which each permits *method* of this route of the API."""
        reads, writes = _SCOPES[self.tag]
        return reads if method in _SAFE else writes

    def operation(self, method: Method) -> Operation | None:
        """Return the operation of *method*; HEAD is served as GET is."""
        wanted = Method.GET if method is Method.HEAD else method
        for each in self.operations:
            if each.method is wanted:
                return each
        return None


_SAFE: Final = frozenset({Method.GET, Method.HEAD})
_MESSAGES: Final = (frozenset({"messages:read"}), frozenset({"messages:write"}))
_SCOPES: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    "messages": _MESSAGES,
    "conversations": _MESSAGES,
    "media": (frozenset({"media:read"}), frozenset({"media:write"})),
    "groups": (frozenset({"groups:read"}), frozenset({"groups:write"})),
    "updates": (frozenset({CONSUME}), frozenset({CONSUME})),
    "graph": (frozenset(NUMBER_SCOPES), frozenset(NUMBER_SCOPES)),
}
"""The scopes that read and write, by the tag of a route. That of `graph` checks each call."""


def shared_label(api_prefix: str) -> str:
    """Return the label of routes with few requests, which share its series."""
    return f"{api_prefix}/:resource"


UNMATCHED = Route("", "unmatched", Posture.HIDDEN, "", ())
"""The row of every path that is in no other row. No token opens it."""


NUMBERS_ROOT: Final = "numbers"
NUMBER_PARAMETER: Final = "phoneNumberId"


def path_of_number(path: str, api_prefix: str) -> str:
    """Return the pattern of *path*, which is below *api_prefix*, for one business number."""
    return f"{api_prefix}/{NUMBERS_ROOT}/:{NUMBER_PARAMETER}{path.removeprefix(api_prefix)}"


_CATCH_ALL: Final = frozenset({Posture.HIDDEN, Posture.ADMIN})


class Router:
    """Finds the row of a path: one look-up, and a few patterns below the API prefix.

    If it *has_numbers*, each path of the API exists for each business number too.
    """

    def __init__(
        self, table: Sequence[Route], api_prefix: str, *, has_numbers: bool = False
    ) -> None:
        self._exact: dict[str, Match] = {
            row.path: (row, {}) for row in table if not _variable(row.path)
        }
        self._patterns = [(_pattern(row.path), row) for row in table if _variable(row.path)]
        self._below = f"{api_prefix}/"
        self._below_numbers = f"{api_prefix}/{NUMBERS_ROOT}/"
        self._has_numbers = has_numbers
        self._unmatched: Match = (UNMATCHED, {})

    def match(self, path: str) -> Match:
        """Return the row of *path* and its variable parts, still percent-encoded.

        A path of a business number has the row of the same path without it.
        """
        if self._has_numbers and path.startswith(self._below_numbers):
            return self._match_of_number(path)
        return self._match(path)

    def _match_of_number(self, path: str) -> Match:
        number, _, rest = path.removeprefix(self._below_numbers).partition("/")
        row, parameters = self._match(self._below + rest)
        if not row.has_numbers:
            return self._unmatched
        return row, {**parameters, NUMBER_PARAMETER: number}

    def _match(self, path: str) -> Match:
        found = self._exact.get(path, self._unmatched)
        # In this order, a hidden path takes as long as a path that does not exist.
        if path.startswith(self._below) and found[0].posture in _CATCH_ALL:
            for pattern, row in self._patterns:
                if (match := pattern.fullmatch(path)) is not None:
                    return found if found[0] is not UNMATCHED else (row, match.groupdict())
        return found


def _variable(path: str) -> bool:
    return ":" in path or "*" in path


def _pattern(path: str) -> re.Pattern[str]:
    source = re.escape(path).replace(r"\*", "*")
    source = re.sub(r"\*(\w+)", r"(?P<\1>.*)", source)
    return re.compile(re.sub(r":(\w+)", r"(?P<\1>[^/]+)", source), re.DOTALL)


_UNQUOTED = "/:@!$&'()*+,;=~"


def _below(root_path: str, path: str, decoded: str) -> str:
    """Return the part of *path* below *root_path*, which servers pass decoded."""
    for whole, root in ((path, quote(root_path, safe=_UNQUOTED)), (decoded, root_path)):
        if f"{whole}/".startswith(f"{root}/"):
            rest = whole[len(root) :] or "/"
            return rest if whole is path else quote(rest, safe=_UNQUOTED)
    return path


_DOT_SEGMENT = re.compile(r"(?:\.|%2e){1,2}", re.IGNORECASE)


def request_path(scope: Scope) -> str:
    """Return the path that is matched: as sent, still percent-encoded, dot segments resolved.

    Browsers and proxies resolve `/x/../status` before they send it, so it means `/status` here as
    well. The mount path of the application is not part of its own paths.
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


_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def decode_segment(segment: str) -> str | None:
    """Return *segment* percent-decoded once, or `None` if it is not the encoding of a text."""
    if _STRAY_PERCENT.search(segment) is not None:
        return None
    try:
        return unquote_to_bytes(segment.encode("latin-1")).decode()
    except UnicodeDecodeError:
        return None
