"""The composition root: the one module that makes and joins the parts of a service."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import aiohttp

from wats.clock import Now, to_iso, utc_now
from wats.config import Profile, Secrets
from wats.errors import StoreError
from wats.graph.client import GraphClient
from wats.graph.errors import ERROR_NAMES
from wats.inbound.dispatch import Dispatcher
from wats.inbound.handlers import Handler, Handlers, import_handler
from wats.inbound.receive import Receiver
from wats.inbound.signature import SignatureCheck
from wats.outbound.accept import Acceptor
from wats.service.upkeep import CHECKPOINT_EVERY_SECONDS, Keeper
from wats.store import Store
from wats.telemetry import Telemetry, TelemetrySink
from wats.telemetry.contract.values import FamilySet, LifecycleEvent, UpdateKind
from wats.telemetry.metrics.shared_memory import Board
from wats.telemetry.sinks.isolation import Log, write_json_line
from wats.web.app import Web, route_labels
from wats.web.auth import Gate
from wats.web.exchange import Receive, Scope, Send
from wats.web.openapi import build_document
from wats.web.parts import Parts
from wats.web.table import route_table
from wats.web.webhooks import Hook


class WatsApp:
    """A gateway as an ASGI 3 application.

    A server with lifespan starts and stops it. Mounted inside another application, or under a
    server without lifespan, the outer application calls `await app.start()` and `await app.stop()`.
    Made by `create_wats_service_app`.
    """

    def __init__(
        self,
        *,
        web: Web,
        hook: Hook,
        handlers: Handlers,
        graph: GraphClient,
        keeper: Keeper | None,
        telemetry: Telemetry,
    ) -> None:
        self._web = web
        self._hook = hook
        self._handlers = handlers
        self._graph = graph
        self._keeper = keeper
        self._telemetry = telemetry
        self._running = False
        self._draining = False
        self._changing = asyncio.Lock()

    def on(self, *kinds: UpdateKind | str) -> Callable[[Handler], Handler]:
        """Decorate an async callable that is to handle updates of *kinds*; of all if none is named.

        Raises:
            ConfigError: A handler of the same name is there already, or the service has started.
            ValueError: The kind does not exist.
        """
        wanted = [UpdateKind(kind) for kind in kinds] or list(UpdateKind)

        def add(handler: Handler) -> Handler:
            self._handlers.add(handler, wanted)
            return handler

        return add

    @property
    def hook(self) -> Hook:
        """The webhook route, for a server of ours that can serve it on the fast path."""
        return self._hook

    @property
    def telemetry(self) -> Telemetry:
        """The telemetry of the service, for a runner that records events too."""
        return self._telemetry

    async def start(self) -> None:
        """Open the store, migrate it if need be, and begin to dispatch. A second call does nothing.

        Raises:
            StoreError: The store cannot be opened or migrated; nothing runs then.
        """
        async with self._changing:
            if self._running:
                return
            self._handlers.freeze()
            self._telemetry.use_targets(self._handlers.names)
            if self._keeper is not None:
                await self._keeper.start()
            await self._graph.start()
            self._running, self._draining = True, False
            self._telemetry.event(LifecycleEvent.STARTED)

    def drain(self) -> None:
        """Record that the service begins to stop, unless this was recorded already.

        For a server that lets requests end before it stops the application.
        """
        if self._running and not self._draining:
            self._draining = True
            self._telemetry.event(LifecycleEvent.DRAINING)

    async def stop(self) -> None:
        """Let running work finish, within bounds, and release all resources. Is idempotent."""
        async with self._changing:
            if not self._running:
                return
            self.drain()
            self._running = False
            if self._keeper is not None:
                await self._keeper.stop()
            await self._graph.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or the server's lifespan; refuse a web socket."""
        match scope["type"]:
            case "http":
                await self._web.serve(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case "websocket":
                await send({"type": "websocket.close"})
            case other:
                msg = f"wats serves http and lifespan, not {other!r}."
                raise ValueError(msg)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except StoreError as error:
            await send({"type": "lifespan.startup.failed", "message": error.message})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})


def create_wats_service_app(
    *,
    profile: Profile,
    secrets: Secrets,
    telemetry_sink: TelemetrySink | None = None,
    persistence: Store | None = None,
    handlers: Iterable[Handler] = (),
    enable_group_routes: bool | None = None,
    graph_session: aiohttp.ClientSession | None = None,
    board: Board | None = None,
    row: int = 0,
    log: Log = write_json_line,
    now: Now = utc_now,
    checkpoint_seconds: float = CHECKPOINT_EVERY_SECONDS,
) -> WatsApp:
    """Make a gateway of *profile* and *secrets*. Nothing is opened or sent before it starts.

    Args:
        profile: The configuration, from `load_config`.
        secrets: Meta's secrets and our own tokens, from `load_config`.
        telemetry_sink: An object of yours that receives telemetry; nothing is sent anywhere without
            one. A failing sink cannot change or delay a response.
        persistence: A store, from `open_store`, which this application then opens and closes.
            Without one, handlers run before the response to a webhook and nothing is kept.
        handlers: Async callables that receive every update, in addition to those that the profile
            names.
        enable_group_routes: Whether the groups routes exist; the profile decides by default.
        graph_session: A client session to call Graph with; it stays yours to close.
        board: Memory in which several processes of one service count, made before they are forked;
            each makes its application after that. By default this one counts alone.
        row: The row of the board that belongs to this process. Number 0 also deletes old data.
        log: Where events go; by default one JSON line each to stderr, without personal data.
        now: The clock.
        checkpoint_seconds: How often the log of the store is emptied of erased content.

    Raises:
        ConfigError: A handler cannot be imported or is named twice, or the sink lacks a method.
    """
    groups_enabled = profile.groups.enabled if enable_group_routes is None else enable_group_routes
    write = _stamped(log, now)
    table = route_table(profile, groups_enabled=groups_enabled)
    telemetry = Telemetry(
        routes=route_labels(table),
        adapter=persistence.adapter if persistence is not None else None,
        sink=telemetry_sink,
        families=FamilySet(profile.telemetry.families),
        graph_api_version=profile.graph.api_version,
        error_names=ERROR_NAMES,
        board=board,
        row=row,
        log=log,
        now=now,
    )
    graph = GraphClient(
        base_url=profile.graph.base_url,
        version=profile.graph.api_version,
        access_token=secrets.access_token,
        telemetry=telemetry,
        session=graph_session,
    )
    registered = Handlers()
    for handler in handlers:
        registered.add(handler)
    for reference in profile.handlers:
        registered.add(import_handler(reference), name=reference)
    keeper = dispatcher = None
    if persistence is not None:
        dispatcher = Dispatcher(
            persistence, registered, profile.inbox, telemetry=telemetry, log=write, now=now
        )
        keeper = Keeper(
            persistence,
            dispatcher,
            telemetry=telemetry,
            inbox=profile.inbox,
            messages=profile.messages,
            chores=row == 0,
            log=write,
            now=now,
            checkpoint_seconds=checkpoint_seconds,
        )
    started = time.monotonic()
    parts = Parts(
        profile=profile,
        groups_enabled=groups_enabled,
        telemetry=telemetry,
        store=persistence,
        graph=graph,
        receiver=Receiver(
            SignatureCheck(secrets.app_secrets),
            registered,
            persistence,
            telemetry=telemetry,
            dispatcher=dispatcher,
            handler_timeout_seconds=profile.inbox.handler_timeout_seconds,
            now=now,
        ),
        verify_token=secrets.verify_token,
        acceptor=Acceptor(
            graph=graph,
            store=persistence,
            telemetry=telemetry,
            phone_number_id=profile.whatsapp.phone_number_id,
            log=write,
            idempotency_hours=profile.messages.idempotency_hours,
            now=now,
        ),
        route_labels=tuple(row.label for row in table),
        uptime_seconds=lambda: time.monotonic() - started,
        anonymous_document=build_document(table, profile=profile, complete=False),
        complete_document=build_document(table, profile=profile, complete=True),
        log=write,
        now=now,
    )
    gate = Gate(secrets.bearer_tokens, secrets.telemetry_tokens)
    web = Web(table, gate, parts)
    webhook = profile.webhook
    hook = Hook(
        path=webhook.path.encode("ascii"),
        max_body_bytes=webhook.max_body_bytes,
        take=web.take_webhook,
        refused=web.count_refused,
    )
    return WatsApp(
        web=web,
        hook=hook,
        handlers=registered,
        graph=graph,
        keeper=keeper,
        telemetry=telemetry,
    )


def _stamped(log: Log, now: Now) -> Log:
    """Return a log that adds the time and never raises: a closed pipe must not fail a request."""

    def write(event: Mapping[str, object]) -> None:
        with suppress(BaseException):
            log({**event, "at": to_iso(now())})

    return write
