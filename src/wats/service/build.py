"""The composition root: the one module that makes and joins the parts of a service."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import aiohttp

from wats.clock import Now, to_iso, utc_now
from wats.config import Profile, Secrets
from wats.errors import ConfigError, ConfigIssue
from wats.graph.configured import graph_client
from wats.graph.errors import ERROR_NAMES
from wats.graph.numbers import BusinessNumbers, business_numbers, ids_of
from wats.inbound.dispatch import Dispatcher
from wats.inbound.handlers import Batch, Handler, Handlers, import_handler
from wats.inbound.other_numbers import NumberFilter
from wats.inbound.pullers import Puller, Pullers
from wats.inbound.receipts import ReceiptBook
from wats.inbound.receive import Receiver
from wats.inbound.retries import retry_span
from wats.inbound.signature import SignatureCheck
from wats.inbound.update_log import UpdateLog
from wats.log import Log, write_json_line
from wats.outbound.accept import Acceptor
from wats.outbound.outbox import Outbox
from wats.outbound.pacing import MemoryBuckets, Pacer
from wats.outbound.sender import MessageSender
from wats.outbound.transmit import Transmitter
from wats.outbound.window import WindowGuard
from wats.privacy import Secret
from wats.service.app import WatsApp
from wats.service.components import (
    DRAIN_SECONDS,
    Component,
    Consumers,
    Outbound,
    Storage,
    Subscribers,
)
from wats.service.upkeep import CHECKPOINT_EVERY_SECONDS, Upkeep
from wats.store import Store
from wats.subscribers.requests import make_requests
from wats.subscribers.subscriber import Subscriber
from wats.telemetry import Telemetry, TelemetrySink
from wats.telemetry.contract.values import FamilySet, UpdateKind
from wats.telemetry.metrics.shared_memory import Board
from wats.web.access import FULL_ACCESS, TELEMETRY_ACCESS, Access
from wats.web.app import Web, route_labels
from wats.web.auth import Authenticator
from wats.web.openapi import build_document
from wats.web.parts import Life, Parts
from wats.web.routing import Route
from wats.web.table import route_table
from wats.web.traced import TracedWeb
from wats.web.webhooks import Hook


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
    log_updates: bool = False,
    now: Now = utc_now,
    checkpoint_seconds: float = CHECKPOINT_EVERY_SECONDS,
    drain_seconds: float = DRAIN_SECONDS,
) -> WatsApp:
    """Make a gateway from *profile* and *secrets*. Nothing is opened or sent before it starts.

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
        log: Receives events; by default one JSON line each on stderr, without personal data.
        log_updates: Whether each received update is logged, with its kind and outcome.
        now: The clock.
        checkpoint_seconds: How often the log of the store is emptied of erased content.
        drain_seconds: How long running handlers may take to finish when the service stops.

    Raises:
        ConfigError: A handler cannot be imported or is named twice, the sink lacks a method, a
            subscriber has no usable secret, a subscriber or puller no store, or a name is that of
            no number.
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
    common = _BuilderArguments(profile, secrets, persistence, telemetry, write, now)
    registered = _registered(handlers, profile)
    subscribers = _subscribers(common, registered)
    graph = graph_client(profile, secrets, telemetry.graph, graph_session)
    numbers = business_numbers(profile, secrets, graph)
    pullers = _pullers(common, registered)
    outbound = _outbound(common, numbers)
    sender = MessageSender(
        outbound.acceptor,
        keeps_keys=persistence is not None,
        retry_seconds=retry_span(profile.inbox),
        groups_enabled=groups_enabled,
    )
    update_log = UpdateLog(write, secrets.app_secrets[0]) if log_updates else None
    receiver, dispatcher = _inbound(common, registered, pullers, outbound, sender, update_log)
    # Stopped in the opposite order: handlers that finish may still need the store and Graph.
    components: list[Component] = [outbound]
    if persistence is not None:
        storage = Storage(persistence, telemetry, board is None)
        components += [Subscribers(subscribers), storage]
        if dispatcher is not None and outbound.outbox is not None:
            components.append(Consumers(dispatcher, outbound.outbox, drain_seconds))
        components.append(_upkeep(common, persistence, registered, row == 0, checkpoint_seconds))
    life = Life()
    web = _web(
        common, table, numbers, outbound, receiver, pullers, life, groups_enabled=groups_enabled
    )
    hook = Hook(
        path=profile.webhook.path.encode("ascii"),
        max_body_bytes=profile.webhook.max_body_bytes,
        take=web.take_webhook,
        refused=web.count_refused,
        reads_traces=telemetry.tracer is not None,
    )
    return WatsApp(
        web=web,
        hook=hook,
        life=life,
        handlers=registered,
        sender=sender,
        numbers=numbers,
        components=components,
        telemetry=telemetry,
        on_drain=pullers.drain,
    )


class _BuilderArguments(NamedTuple):
    """The arguments of every builder."""

    profile: Profile
    secrets: Secrets
    store: Store | None
    telemetry: Telemetry
    log: Log
    now: Now


def _registered(handlers: Iterable[Handler], profile: Profile) -> Handlers:
    handles_all = profile.other_numbers_policy == "handle"
    ids = [each.phone_number_id for each in profile.all_numbers]
    registered = Handlers(None if handles_all else ids)
    for handler in handlers:
        registered.add(handler)
    for reference in profile.handlers:
        registered.add(import_handler(reference), name=reference)
    return registered


def _subscribers(common: _BuilderArguments, registered: Handlers) -> Sequence[Subscriber]:
    """Register a handler for each subscriber."""
    profile, store = common.profile, common.store
    subscribers: list[Subscriber] = []
    if not profile.subscribers:
        return subscribers
    if store is None:
        reason = "Needs a database: set persistence.url."
        raise ConfigError([ConfigIssue("invalid_subscribers", "subscribers", reason)])
    displayed = {
        each.phone_number_id: each.display_phone_number or "" for each in profile.all_numbers
    }
    for config in profile.subscribers:
        secrets = common.secrets.subscribers.get(config.name, ())
        make = make_requests(config, secrets, displayed)
        pause = partial(store.pause, config.name, is_paused=True)
        place = len(registered.names)
        subscriber = Subscriber(
            config,
            make,
            log=common.log,
            now=common.now,
            pause=pause,
            on_circuit=partial(common.telemetry.webhooks.circuit_open, place),
        )
        kinds = [UpdateKind(kind) for kind in config.kinds] or UpdateKind
        registered.add(
            subscriber,
            kinds,
            config.name,
            concurrency=config.concurrency,
            numbers=ids_of(profile, config.numbers),
            schedule=config.schedule,
            batch=Batch(config.batch, subscriber.post) if config.batch > 1 else None,
            limit=subscriber.limit,
        )
        subscribers.append(subscriber)
    return subscribers


def _pullers(common: _BuilderArguments, registered: Handlers) -> Pullers:
    """Register a consumer for each puller."""
    profile, store = common.profile, common.store
    pullers: list[Puller] = []
    if not profile.pullers:
        return Pullers()
    if store is None:
        reason = "Needs a database: set persistence.url."
        raise ConfigError([ConfigIssue("invalid_pullers", "pullers", reason)])
    for config in profile.pullers:
        kinds = [UpdateKind(kind) for kind in config.kinds] or UpdateKind
        registered.add_puller(config.name, kinds, ids_of(profile, config.numbers))
        pullers.append(
            Puller(
                config.name,
                store,
                place=registered.place(config.name),
                lease_seconds=config.lease_seconds,
                max_attempts=config.max_attempts or profile.inbox.max_attempts,
                telemetry=common.telemetry,
                log=common.log,
                now=common.now,
            )
        )
    return Pullers(pullers)


def _outbound(common: _BuilderArguments, numbers: BusinessNumbers) -> Outbound:
    profile, _, store, telemetry, log, now = common
    graph = numbers.default.graph
    guard = None
    if store is not None and profile.messages.window_guard:
        guard = WindowGuard(store, telemetry, now)
    buckets = store if store is not None else MemoryBuckets()
    default = profile.messages.throughput
    throughputs = {each.id: each.config.throughput or default for each in numbers.all}
    pacer = Pacer(buckets, throughputs, telemetry, now)
    transmitter = Transmitter(
        graph, own_graphs=numbers.own_graphs, telemetry=telemetry, log=log, guard=guard, now=now
    )
    outbox = None
    if store is not None:
        outbox = Outbox(
            store,
            transmitter,
            pacer,
            profile.outbox,
            graph_seconds=profile.graph.timeout_seconds,
            telemetry=telemetry,
            log=log,
            now=now,
        )
    acceptor = Acceptor(
        transmitter=transmitter,
        pacer=pacer,
        store=store,
        telemetry=telemetry,
        phone_number_id=numbers.default.id,
        log=log,
        outbox=outbox,
        idempotency_hours=profile.messages.idempotency_hours,
        graph_seconds=profile.graph.timeout_seconds,
    )
    return Outbound(graph, acceptor, outbox)


def _inbound(
    common: _BuilderArguments,
    handlers: Handlers,
    pullers: Pullers,
    outbound: Outbound,
    sender: MessageSender,
    update_log: UpdateLog | None,
) -> tuple[Receiver, Dispatcher | None]:
    profile, secrets, store, telemetry, log, now = common
    dispatcher = None
    if store is not None:
        dispatcher = Dispatcher(
            store,
            handlers,
            profile.inbox,
            telemetry=telemetry,
            log=log,
            now=now,
            send=sender.reply,
            pullers=pullers,
            others=[] if outbound.outbox is None else [outbound.outbox.consumer],
        )
    receiver = Receiver(
        SignatureCheck(secrets.app_secrets),
        handlers,
        store,
        telemetry=telemetry,
        dispatcher=dispatcher,
        handler_timeout_seconds=profile.inbox.handler_timeout_seconds,
        log=log,
        update_log=update_log,
        number_filter=_number_filter(profile, log),
        now=now,
        send=sender.reply,
    )
    return receiver, dispatcher


def _number_filter(profile: Profile, log: Log) -> NumberFilter | None:
    policy = profile.other_numbers_policy
    if policy == "handle":
        return None
    return NumberFilter([each.phone_number_id for each in profile.all_numbers], policy, log)


def _upkeep(
    common: _BuilderArguments,
    store: Store,
    handlers: Handlers,
    is_chosen: bool,
    checkpoint_seconds: float,
) -> Upkeep:
    return Upkeep(
        store,
        telemetry=common.telemetry,
        inbox=common.profile.inbox,
        messages=common.profile.messages,
        outbox=common.profile.outbox,
        leads=is_chosen,
        consumers=lambda: handlers.names,
        log=common.log,
        now=common.now,
        checkpoint_seconds=checkpoint_seconds,
    )


def _web(
    common: _BuilderArguments,
    table: Sequence[Route],
    numbers: BusinessNumbers,
    outbound: Outbound,
    receiver: Receiver,
    pullers: Pullers,
    life: Life,
    *,
    groups_enabled: bool,
) -> Web:
    profile, secrets, store, telemetry, log, now = common
    started = time.monotonic()
    parts = Parts(
        profile=profile,
        life=life,
        groups_enabled=groups_enabled,
        telemetry=telemetry,
        store=store,
        numbers=numbers,
        receiver=receiver,
        pullers=pullers,
        receipts=ReceiptBook(secrets.app_secrets),
        verify_token=secrets.verify_token,
        record_key=secrets.app_secrets[0],
        acceptor=outbound.acceptor,
        route_labels=tuple(dict.fromkeys(row.label for row in table)),
        uptime_seconds=lambda: time.monotonic() - started,
        anonymous_document=build_document(table, profile=profile, complete=False),
        complete_document=build_document(table, profile=profile, complete=True),
        telemetry_document=build_document(table, profile=profile, complete=True, has_admin=False),
        log=log,
        now=now,
    )
    authenticator = Authenticator(_tokens(profile, secrets))
    if telemetry.tracer is not None:
        return TracedWeb(table, authenticator, parts, tracer=telemetry.tracer)
    return Web(table, authenticator, parts)


def _tokens(profile: Profile, secrets: Secrets) -> Iterator[tuple[Secret, Access]]:
    """Yield every token with its access, those of the service first."""
    yield from ((secret, FULL_ACCESS) for secret in secrets.bearer_tokens)
    yield from ((secret, TELEMETRY_ACCESS) for secret in secrets.telemetry_tokens)
    for token in profile.service.tokens:
        access = Access(frozenset(token.scopes), ids_of(profile, token.numbers))
        yield from ((secret, access) for secret in secrets.api_tokens.get(token.name, ()))


def _stamped(log: Log, now: Now) -> Log:
    """Return a log that adds the time and never raises: a closed pipe must not fail a request."""

    def write(event: Mapping[str, object]) -> None:
        with suppress(BaseException):
            log({**event, "at": to_iso(now())})

    return write
