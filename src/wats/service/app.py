"""The gateway as an ASGI application, which starts and stops its components."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, TypeAlias, TypeVar, overload

from wats.errors import ForkedApplication, NotStarted, WatsError
from wats.graph.numbers import BusinessNumbers
from wats.inbound.filters import Predicate
from wats.inbound.handlers import Handler, Handlers
from wats.inbound.parts import Part
from wats.inbound.updates import Update
from wats.outbound.sender import MessageSender
from wats.sends import Sent
from wats.service.components import Component
from wats.telemetry import Telemetry
from wats.telemetry.contract.values import LifecycleEvent, UpdateKind
from wats.web.app import Web
from wats.web.exchange import Receive, Scope, Send
from wats.web.parts import Life, Phase
from wats.web.webhooks import Hook

_KINDS: Final = tuple(kind.value for kind in UpdateKind)

First = TypeVar("First", bound=Part)
Second = TypeVar("Second", bound=Part)
Third = TypeVar("Third", bound=Part)
FourOrMore: TypeAlias = tuple[
    type[Part], type[Part], type[Part], type[Part], *tuple[type[Part], ...]
]
HandlerT = TypeVar("HandlerT", bound=Handler)
Result = TypeVar("Result")
HandlerOf: TypeAlias = Callable[[Update[First]], Coroutine[Any, Any, Result]]


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
        life: Life,
        handlers: Handlers,
        sender: MessageSender,
        numbers: BusinessNumbers,
        components: Sequence[Component],
        telemetry: Telemetry,
        on_drain: Callable[[], None],
    ) -> None:
        self._web = web
        self._hook = hook
        self._life = life
        self._process = os.getpid()
        self._handlers = handlers
        self._sender = sender
        self._numbers = numbers
        self._components = components
        self._telemetry = telemetry
        self._on_drain = on_drain
        self._started = AsyncExitStack()
        self._is_open = False  # also while running handlers finish
        self._changing = asyncio.Lock()

    @overload
    def on(
        self, *kinds: UpdateKind | str, where: Predicate | None = None
    ) -> Callable[[HandlerT], HandlerT]: ...

    @overload
    def on(
        self,
        *kinds: UpdateKind | str,
        content: type[First],
        where: Callable[[Update[First]], bool] | None = None,
    ) -> Callable[[HandlerOf[First, Result]], HandlerOf[First, Result]]: ...

    @overload
    def on(
        self,
        *kinds: UpdateKind | str,
        content: tuple[type[First], type[Second]],
        where: Callable[[Update[First | Second]], bool] | None = None,
    ) -> Callable[[HandlerOf[First | Second, Result]], HandlerOf[First | Second, Result]]: ...

    @overload
    def on(
        self,
        *kinds: UpdateKind | str,
        content: tuple[type[First], type[Second], type[Third]],
        where: Callable[[Update[First | Second | Third]], bool] | None = None,
    ) -> Callable[
        [HandlerOf[First | Second | Third, Result]], HandlerOf[First | Second | Third, Result]
    ]: ...

    @overload
    def on(
        self,
        *kinds: UpdateKind | str,
        content: FourOrMore,
        where: Predicate | None = None,
    ) -> Callable[[HandlerT], HandlerT]: ...

    def on(
        self,
        *kinds: UpdateKind | str,
        content: type[Part] | tuple[type[Part], ...] = (),
        where: Callable[..., bool] | None = None,
    ) -> Callable[[Any], Any]:
        """Decorate an async callable as a handler of *kinds*; of all kinds by default.

            @app.on("message", content=Text, where=lambda update: update.content.body == "stop")
            async def stop(update: Update[Text]) -> None: ...

        Args:
            kinds: The kinds of updates.
            content: The classes of `update.content`, one or a tuple. Any content by default.
            where: Selects updates; a plain function that depends on the update alone. It is called
                on the event loop before the webhook is acknowledged. If it raises, the handler has
                the update, and each attempt fails with its exception.

        Raises:
            ConfigError: A handler of this name exists, the service has started, or no update can
                match *content*.
            ValueError: The kind does not exist.
        """
        if unknown := [kind for kind in kinds if kind not in _KINDS]:
            msg = f"{unknown[0]!r} is not a kind of update; the kinds are {', '.join(_KINDS)}."
            raise ValueError(msg)
        wanted = [UpdateKind(kind) for kind in kinds] or list(UpdateKind)
        contents = content if isinstance(content, tuple) else (content,)

        def add(handler: Handler) -> Handler:
            self._handlers.add(handler, wanted, content=contents, where=where)
            return handler

        return add

    async def send(
        self,
        message: Mapping[str, object],
        *,
        idempotency_key: str | None = None,
        later: bool = False,
        number: str | None = None,
    ) -> Sent:
        """Send *message*, in Graph's format, like `POST /messages` of the HTTP API.

            await app.send(
                {"to": "15550001234", "type": "text", "text": {"body": "Hello"}},
                idempotency_key="order-1234-shipped",
            )

        Args:
            message: The type, the content and the recipient; `messaging_product` is added.
            idempotency_key: With the same key and message, nothing is sent again within
                `messages.idempotencyHours`. The HTTP API shares the keys, and each number has keys
                of its own.
            later: Whether to store the message in the outbox, which sends it with retries, instead
                of waiting for Meta. No error of Graph is raised then.
            number: The business number that sends the message, by its name in the config or its
                phone number id; the default number by default.

        Raises:
            NotStarted: The application is not started.
            ValueError: The number is not configured.
            MalformedRequest: The message is not valid; `details` hold every mistake.
            StoreNotConfigured: A key was given and there is no store; nothing was sent.
            StoreUnavailable: The key could not be reserved; nothing was sent.
            IdempotencyError: The key prevents the send; nothing was sent.
            OutboxFull: Too many messages that are sent later wait; nothing was stored.
            GraphRefused: Meta refused it; nothing was sent.
            GraphUnreachable: Nothing was sent.
            GraphOutcomeUnknown: Meta may have accepted it; the key will not be sent again.
        """
        if not self._is_open:
            raise NotStarted
        send = self._sender.send_later if later else self._sender.send
        return await send(message, idempotency_key, self._id_of(number))

    def _id_of(self, number: str | None) -> str | None:
        if number is None:
            return None
        found = self._numbers.find(number)
        if found is None:
            msg = "The number is not configured."
            raise ValueError(msg)
        return found.id

    @property
    def hook(self) -> Hook:
        """The webhook route, for a server of ours that can serve it on the fast path."""
        return self._hook

    @property
    def telemetry(self) -> Telemetry:
        """The telemetry of the service, for a runner that records events too."""
        return self._telemetry

    async def start(self) -> None:
        """Open the store, migrate it if necessary, and begin to dispatch. Is idempotent.

        Raises:
            StoreError: The store cannot be opened or migrated; nothing runs then.
            ForkedApplication: Another process made the application, and forked this one.
        """
        if os.getpid() != self._process:
            raise ForkedApplication
        async with self._changing:
            if self._life.phase is not Phase.STOPPED:
                return
            self._handlers.freeze()
            self._telemetry.use_targets(self._handlers.names)
            async with AsyncExitStack() as started:
                for component in self._components:
                    await component.start()
                    started.push_async_callback(component.stop)
                self._started = started.pop_all()
            self._life.phase = Phase.RUNNING
            self._is_open = True
            self._telemetry.service.event(LifecycleEvent.STARTED)

    def drain(self) -> None:
        """Fail the readiness probe, and record that the service begins to stop. Is idempotent.

        For a server that finishes requests before it stops the application.
        """
        if self._life.phase is Phase.RUNNING:
            self._life.phase = Phase.DRAINING
            self._on_drain()
            self._telemetry.service.event(LifecycleEvent.DRAINING)

    async def stop(self) -> None:
        """Let running work finish, within bounds, and release all resources. Is idempotent."""
        async with self._changing:
            if self._life.phase is Phase.STOPPED:
                return
            self.drain()
            self._life.phase = Phase.STOPPED
            try:
                await self._started.aclose()
            finally:
                self._is_open = False

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
        except WatsError as error:
            await send({"type": "lifespan.startup.failed", "message": error.message})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})
