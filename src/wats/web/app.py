"""The ASGI application: one entry, one exit, and every request counted."""

from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Final

from wats.cancellation import is_for_this_task
from wats.config.numbers import ADMIN, TELEMETRY
from wats.errors import (
    GraphError,
    InsufficientScope,
    MethodNotAllowed,
    NotStarted,
    Overloaded,
    PayloadTooLarge,
    RouteNotFound,
    StoreUnavailable,
    Unauthorized,
    WatsError,
    WebhookRefused,
)
from wats.inbound.receive import Receipt
from wats.telemetry import error_name
from wats.telemetry.contract.values import AuthSurface, Method, RouteLabel
from wats.telemetry.sinks.isolation import FailureLog
from wats.web import webhooks
from wats.web.access import NO_ACCESS, Access
from wats.web.auth import Authenticator
from wats.web.exchange import (
    ClientGone,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    StreamedResponse,
    send_response,
    send_stream,
)
from wats.web.parts import HOOK_LABEL, Parts, Phase
from wats.web.problems import NOT_FOUND
from wats.web.routing import (
    NUMBER_PARAMETER,
    UNMATCHED,
    Handle,
    Posture,
    Route,
    Router,
    request_path,
)
from wats.web.webhooks import WebhookClient

_METHODS = {method.value: method for method in Method}
_POST: Final = Method.POST

NOT_STARTED_HINT: Final = "enable the lifespan of the server, or await app.start()"


def route_labels(table: Sequence[Route]) -> tuple[RouteLabel, ...]:
    """Return the labels of *table* for telemetry, in its order, with `unmatched` at the end."""
    methods: dict[str, dict[Method, None]] = {}
    for row in (*table, UNMATCHED):
        methods.setdefault(row.label, {}).update(dict.fromkeys(row.methods))
    return tuple(RouteLabel(label, tuple(served)) for label, served in methods.items())


class Web:
    """Serves HTTP requests from the table of routes.

    The token is checked before the path, for every request, so that neither the response nor its
    time reveals to an unauthenticated client which paths exist.
    """

    def __init__(self, table: Sequence[Route], authenticator: Authenticator, parts: Parts) -> None:
        prefix, has_numbers = parts.profile.service.api_prefix, bool(parts.profile.numbers)
        self._router = Router(table, prefix, has_numbers=has_numbers)
        self._ordinals = {each.template: place for place, each in enumerate(route_labels(table))}
        self._hook_ordinal = self._ordinals[HOOK_LABEL]
        (self._hook,) = (row for row in table if row.label == HOOK_LABEL)
        self._authenticator = authenticator
        self._parts = parts
        self._rejections = webhooks.Rejections(parts.telemetry, parts.log)
        self._store_failures = FailureLog("wats.store.error", log=parts.log, now=parts.now)
        self._has_reported = False

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Counted once, with the status that is sent; 0 if the client is gone.

        It is counted before it is sent: a response that a client has seen is in the counts, even if
        this process is killed immediately afterwards.
        """
        started = perf_counter()
        access = self._authenticator.access_of(scope["headers"])
        method = _METHODS.get(scope["method"], Method.UNKNOWN)
        route, parameters = self._router.match(request_path(scope))
        ordinal = self._ordinals[route.label]
        response = None
        number = self._number_of(parameters, access)
        request = Request(scope, receive, parameters, access=access, number=number)
        try:
            response = await self._answer(route, method, access, request)
        except ClientGone:
            return
        finally:
            self._count(ordinal, method, response.status if response is not None else 0, started)
        with_body = method is not Method.HEAD
        if isinstance(response, StreamedResponse):
            await send_stream(request, send, response, with_body=with_body)
        else:
            await send_response(request, send, response, with_body=with_body)

    def _number_of(self, parameters: Mapping[str, str], access: Access) -> str | None:
        """Return the number that a request is limited to; see `Request.number`.

        A path has its id or its name; a name never has the form of an id. One that is not
        configured is returned unchanged.
        """
        named = parameters.get(NUMBER_PARAMETER)
        if named is None:
            return None if access.numbers is None else self._parts.numbers.default.id
        found = self._parts.numbers.find(named)
        return named if found is None else found.id

    def _count(self, ordinal: int, method: Method, status: int, started: float) -> None:
        self._parts.telemetry.http.request(ordinal, method, status, perf_counter() - started)

    async def _answer(
        self, route: Route, method: Method, access: Access, request: Request
    ) -> Response:
        try:
            handle = self._admit(route, method, access, request.number)
            if self._parts.life.phase is Phase.STOPPED and _needs_start(route):
                raise NotStarted
            if route.posture is Posture.API and request.is_crowded:
                raise Overloaded
            return await handle(self._parts, request)
        except ClientGone:
            raise
        except BaseException as error:
            if is_for_this_task(error):
                raise
            return self._explain(error, route)

    def _admit(self, route: Route, method: Method, access: Access, number: str | None) -> Handle:
        """Return the operation, if this caller may use it, with this number.

        A number that is not configured, and one that the token is not for, are the same: the path
        does not exist.

        Raises:
            RouteNotFound: There is no such route, or it is hidden from this caller.
            Unauthorized: The route needs a token.
            InsufficientScope: The token lacks the scope of the operation.
            MethodNotAllowed: The caller may use the route, but not by this method.
        """
        _check_scope(route, method, access)
        if number is not None and route.has_numbers:
            permitted = access.numbers is None or number in access.numbers
            if not (number in self._parts.numbers.ids and permitted):
                raise RouteNotFound
        operation = route.operation(method)
        if operation is None:
            raise MethodNotAllowed([each.value for each in route.methods])
        return operation.handle

    def take_webhook(self, body: bytes, signature: str | None, client: WebhookClient) -> None:
        """Fast path: handle a fully received webhook POST, as `serve` would.

        It makes no task: a task and its coroutines cost as much as reading the JSON.
        """
        answer = partial(self._answer_webhook, client, perf_counter())
        try:
            self._parts.receiver.take(body, signature, answer)
        except BaseException as error:
            answer(None, error)

    def _answer_webhook(
        self,
        client: WebhookClient,
        started: float,
        receipt: Receipt | None,
        error: BaseException | None,
    ) -> None:
        if receipt is None:
            response = self._explain(error or RuntimeError(), self._hook)
        else:
            response = webhooks.answer(receipt)
        is_connected = client.is_connected
        status = response.status if is_connected else 0
        self._count(self._hook_ordinal, _POST, status, started)
        if is_connected:
            client.respond(response)

    def count_refused(self, status: int) -> None:
        """Count bytes that the server refused with *status* because they are not a request."""
        ordinal = self._ordinals[UNMATCHED.label]
        self._parts.telemetry.http.request(ordinal, Method.UNKNOWN, status, 0.0)

    def _report_not_started(self) -> None:
        if not self._has_reported:
            self._has_reported = True
            self._parts.log({"event": "wats.application.unstarted", "hint": NOT_STARTED_HINT})

    def _explain(self, error: BaseException, route: Route) -> Response:
        """Return the response for *error*, and record it for the operator."""
        telemetry = self._parts.telemetry
        if not isinstance(error, WatsError):
            telemetry.errors.record(error)
            self._parts.log({"event": "wats.request.error", "errorName": error_name(error)})
            return route.errors.respond(WatsError())
        match error:
            case RouteNotFound():
                of_api = route.posture is Posture.API
                surface = AuthSurface.API if of_api else AuthSurface.TELEMETRY
                # A path that does not exist adds 0, which takes the same time as adding 1.
                telemetry.http.auth_failure(surface, int(route is not UNMATCHED))
                return NOT_FOUND
            case Unauthorized() | InsufficientScope():
                telemetry.http.auth_failure(AuthSurface.API)
            case WebhookRefused() | PayloadTooLarge() if route is self._hook:
                self._rejections.record(error)
            case NotStarted():
                self._report_not_started()
            case _ if error.status >= 500 and not isinstance(error, GraphError):
                telemetry.errors.record(error)
                if isinstance(error, StoreUnavailable):
                    self._store_failures.report("request", _cause_of(error))
        return route.errors.respond(error)


def _cause_of(error: BaseException) -> BaseException:
    """Return the error of the database below *error*, which can be wrapped more than once."""
    while isinstance(error, StoreUnavailable) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _needs_start(route: Route) -> bool:
    return route.posture in {Posture.API, Posture.ADMIN} or route.label == HOOK_LABEL


def _check_scope(route: Route, method: Method, access: Access) -> None:
    """Refuse a caller whose token does not permit *method* of *route*, with any number."""
    match route.posture:
        case Posture.HIDDEN if TELEMETRY not in access.scopes or route is UNMATCHED:
            raise RouteNotFound
        case Posture.ADMIN if ADMIN not in access.scopes:
            raise RouteNotFound
        case Posture.API if access is NO_ACCESS:
            raise Unauthorized
        case Posture.API if access.scopes.isdisjoint(needed := route.scopes(method)):
            raise InsufficientScope(f"The token lacks a scope: {' or '.join(sorted(needed))}.")
