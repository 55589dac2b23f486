import asyncio
from datetime import UTC, datetime
from functools import partial, wraps
from typing import Any

import msgspec
import pytest

from wats.errors import ConfigError
from wats.inbound.calls import HandlerCall, HandlerCalls
from wats.inbound.handlers import Handlers, import_handler
from wats.inbound.updates import Update
from wats.telemetry import Adapter, FamilySet, RouteLabel, Telemetry
from wats.telemetry.contract.values import UpdateKind

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


UPDATE = Update(
    key="00" * 16,
    kind=UpdateKind.MESSAGE,
    field="messages",
    waba_id="1",
    occurred_at=NOON,
    received_at=NOON,
    raw={},
)
STATUS = msgspec.structs.replace(UPDATE, kind=UpdateKind.STATUS)


def of(number: str | None) -> Update:
    return msgspec.structs.replace(UPDATE, phone_number_id=number)


async def first(update: Update) -> None: ...


async def second(update: Update) -> None: ...


class Callable:
    async def __call__(self, update: Update) -> None: ...


def test_each_kind_goes_to_its_handlers_in_the_order_in_which_they_were_added() -> None:
    handlers = Handlers()
    handlers.add(first)
    handlers.add(second, [UpdateKind.MESSAGE], name="the-second")

    assert handlers.consumers(UPDATE) == (f"{__name__}:first", "the-second")
    assert handlers.consumers(STATUS) == (f"{__name__}:first",)
    target = handlers["the-second"]
    assert (target.handler, target.place) == (second, 1)


def test_a_puller_gets_the_updates_of_its_numbers() -> None:
    handlers = Handlers()
    handlers.add(second, name="handler")

    handlers.add_puller("one", [UPDATE.kind], ["15550000001"])
    handlers.add_puller("every")

    assert handlers.names == ("handler", "one", "every")
    assert handlers.called == ("handler",)
    assert handlers.place("every") == 2
    found = {
        number: handlers.consumers(msgspec.structs.replace(UPDATE, phone_number_id=number))
        for number in ("15550000001", "15550000002", None)
    }
    assert found == {
        "15550000001": ("handler", "one", "every"),
        "15550000002": ("handler", "every"),
        None: ("handler", "every"),
    }


def test_a_callable_object_has_the_name_of_its_class() -> None:
    handlers = Handlers()
    handlers.add(Callable())

    assert handlers.names == (f"{__name__}:Callable",)


def test_a_kind_that_is_named_twice_is_passed_once() -> None:
    handlers = Handlers()
    handlers.add(first, [UpdateKind.MESSAGE, UpdateKind.MESSAGE], name="it")

    assert handlers.consumers(UPDATE) == ("it",)


def test_two_handlers_cannot_share_a_name() -> None:
    handlers = Handlers()
    handlers.add(first)

    with pytest.raises(ConfigError, match="another handler has this name"):
        handlers.add(first)


def test_once_frozen_no_handler_can_be_added() -> None:
    handlers = Handlers()
    handlers.freeze()

    with pytest.raises(ConfigError, match="before the service starts"):
        handlers.add(first)


def test_a_handler_is_imported_by_module_and_name() -> None:
    assert import_handler("asyncio:Queue.get") is __import__("asyncio").Queue.get


@pytest.mark.parametrize(
    "reference",
    [
        pytest.param("no_such_module_at_all:f", id="no-module"),
        pytest.param("asyncio:no_such_function", id="no-function"),
        pytest.param("asyncio:Queue.no_such", id="no-attribute"),
        pytest.param("asyncio:__name__", id="not-callable"),
    ],
)
def test_a_handler_that_cannot_be_imported_or_called_is_refused(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be (imported|called)"):
        import_handler(reference)


def blocking(update: Update) -> None: ...


class Blocking:
    def __call__(self, update: Update) -> None: ...


@pytest.mark.parametrize("handler", [blocking, Blocking(), Callable, 7])
def test_a_handler_that_is_not_async_is_refused(handler: Any) -> None:
    with pytest.raises(ConfigError, match="must be an async function"):
        Handlers().add(handler)


async def without_parameter() -> None: ...


async def with_two(update: Update, other: object) -> None: ...


async def with_name(*, update: Update) -> None: ...


@pytest.mark.parametrize("handler", [without_parameter, with_two, with_name])
def test_a_handler_that_cannot_be_called_with_one_update_is_refused(handler: Any) -> None:
    with pytest.raises(ConfigError, match="must accept one argument, the update"):
        Handlers().add(handler)


async def with_default(update: Update, other: object = None) -> None: ...


async def with_all(*arguments: object, **more: object) -> None: ...


@pytest.mark.parametrize("handler", [with_default, with_all, partial(with_two, other=1)])
def test_a_handler_can_have_optional_parameters(handler: Any) -> None:
    handlers = Handlers()

    handlers.add(handler, name="shop:handler")

    assert handlers.names == ("shop:handler",)


@wraps(first)
def wrapped(update: Update) -> Any:
    return first(update)


@pytest.mark.parametrize("handler", [partial(first), wrapped])
def test_a_wrapped_async_function_is_a_handler(handler: Any) -> None:
    Handlers().add(handler, name="wrapped")


async def call(calls: HandlerCalls, name: str, update: Update) -> BaseException | None:
    """Call a handler, and return what it raised."""
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    class TestedCall(HandlerCall):
        def handled(self, failure: BaseException | None) -> None:
            ended.set_result(failure)

    calls.start(TestedCall(), name, update)
    return await ended


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), GeneratorExit(), SystemExit("x"), KeyboardInterrupt()]
)
async def test_an_exception_of_any_class_is_the_failure_of_its_call(
    error: BaseException,
) -> None:
    async def fail(update: Update) -> None:
        raise error

    handlers = Handlers()
    handlers.add(fail, name="bad")
    telemetry = Telemetry(routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE)
    calls = HandlerCalls(handlers, telemetry=telemetry, timeout_seconds=5)

    assert await call(calls, "bad", UPDATE) is error

    assert telemetry.errors.snapshot() == {type(error).__name__: 1}


async def test_every_call_is_counted_for_its_handler() -> None:
    async def fail(update: Update) -> None:
        raise LookupError

    handlers = Handlers()
    handlers.add(first, name="good")
    handlers.add(fail, name="bad")
    telemetry = Telemetry(
        routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE, families=FamilySet.OPERATOR
    )
    telemetry.use_targets(handlers.names)
    calls = HandlerCalls(handlers, telemetry=telemetry, timeout_seconds=5)
    assert await call(calls, "good", UPDATE) is None
    assert type(await call(calls, "bad", UPDATE)) is LookupError
    assert await call(calls, "good", UPDATE) is None

    lines = telemetry.render().body.decode().splitlines()
    counted = {line for line in lines if line.startswith("wats_dispatch") and line[-2:] != " 0"}
    assert counted == {
        'wats_dispatch_total{outcome="success",target="good"} 2',
        'wats_dispatch_total{outcome="error",target="bad"} 1',
    }
    assert telemetry.errors.snapshot() == {"LookupError": 1}


def test_a_handler_of_some_numbers_gets_no_update_of_another_or_without_one() -> None:
    handlers = Handlers()
    handlers.add(first, name="before")
    handlers.add(first, [UpdateKind.MESSAGE], name="some", numbers={"1", "2"})
    handlers.add(first, name="after")
    handlers.add(first, name="none", numbers=())

    found = {number: handlers.consumers(of(number)) for number in (None, *"123")}
    some, others = ("before", "some", "after"), ("before", "after")
    assert found == {None: others, "1": some, "2": some, "3": others}
    assert handlers.consumers(msgspec.structs.replace(of("1"), kind=UpdateKind.STATUS)) == others


def test_only_updates_of_the_given_numbers_or_without_one_are_handled() -> None:
    handlers = Handlers(["1", "2"])
    handlers.add(first, name="all")
    handlers.add(first, name="some", numbers={"2", "3"})

    found = {number: handlers.consumers(of(number)) for number in (None, *"123")}
    assert found == {None: ("all",), "1": ("all",), "2": ("all", "some"), "3": ()}
