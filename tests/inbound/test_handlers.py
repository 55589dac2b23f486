from datetime import UTC, datetime

import pytest

from wats.errors import ConfigError
from wats.inbound.handlers import HandlerCalls, Handlers, import_handler
from wats.inbound.updates import Update
from wats.telemetry import Adapter, FamilySet, RouteLabel, Telemetry
from wats.telemetry.vocabulary import UpdateKind

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


async def first(update: Update) -> None: ...


async def second(update: Update) -> None: ...


class Callable:
    async def __call__(self, update: Update) -> None: ...


def test_each_kind_goes_to_those_who_want_it_in_the_order_in_which_they_came() -> None:
    handlers = Handlers()
    handlers.add(first)
    handlers.add(second, [UpdateKind.MESSAGE], name="the-second")

    assert handlers.targets(UpdateKind.MESSAGE) == (f"{__name__}:first", "the-second")
    assert handlers.targets(UpdateKind.STATUS) == (f"{__name__}:first",)
    assert handlers["the-second"] == (second, 1)


def test_an_object_that_can_be_called_goes_by_the_name_of_its_class() -> None:
    handlers = Handlers()
    handlers.add(Callable())

    assert handlers.names == (f"{__name__}:Callable",)


def test_a_kind_that_is_named_twice_is_handed_over_once() -> None:
    handlers = Handlers()
    handlers.add(first, [UpdateKind.MESSAGE, UpdateKind.MESSAGE], name="it")

    assert handlers.targets(UpdateKind.MESSAGE) == ("it",)


def test_two_handlers_cannot_share_a_name() -> None:
    handlers = Handlers()
    handlers.add(first)

    with pytest.raises(ConfigError, match="another handler of this name"):
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
def test_what_cannot_be_imported_or_called_is_refused(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be (imported|called)"):
        import_handler(reference)


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
    update = Update(
        key="00" * 16,
        kind=UpdateKind.MESSAGE,
        field="messages",
        waba_id="1",
        occurred_at=NOON,
        received_at=NOON,
        raw={},
    )

    assert await calls.call("good", update) is None
    assert type(await calls.call("bad", update)) is LookupError
    assert await calls.call("good", update) is None

    lines = telemetry.render().body.decode().splitlines()
    counted = {line for line in lines if line.startswith("wats_dispatch") and line[-2:] != " 0"}
    assert counted == {
        'wats_dispatch_total{outcome="success",target="good"} 2',
        'wats_dispatch_total{outcome="error",target="bad"} 1',
    }
    assert telemetry.errors.snapshot() == {"LookupError": 1}
