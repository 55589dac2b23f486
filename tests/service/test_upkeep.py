import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from wats.config import InboxConfig, MessagesConfig, OutboxConfig
from wats.errors import StoreUnavailable
from wats.log import Log
from wats.service.upkeep import Upkeep
from wats.store.admin import ConsumerState
from wats.store.records import OUTBOX, Depth, InboxDepth, Retention
from wats.telemetry import Adapter, FamilySet, RouteLabel, Telemetry

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def state_of(name: str, seconds: float = 0.0, *, is_paused: bool = False) -> ConsumerState:
    return ConsumerState(
        name=name,
        is_configured=True,
        is_paused=is_paused,
        depth=Depth(),
        oldest_seconds=seconds,
    )


class Shelf:
    """A store that only counts its deliveries, and fails as instructed."""

    def __init__(self, *answers: InboxDepth | Exception) -> None:
        self.answers = list(answers)
        self.adapter = Adapter.SQLITE
        self.asked = 0
        self.purged = 0
        self.retention: Retention | None = None
        self.purge_errors: list[BaseException] = []
        self.checkpoints = [True]
        self.is_leader = True

    async def depth(self) -> InboxDepth:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def consumers(self) -> Sequence[ConsumerState]:
        return [state_of(OUTBOX, is_paused=True)]

    async def lead(self) -> bool:
        return self.is_leader

    async def purge(self, retention: Retention) -> int:
        self.purged += 1
        self.retention = retention
        if self.purge_errors:
            raise self.purge_errors.pop(0)
        return 0

    async def checkpoint(self) -> bool:
        return self.checkpoints.pop(0) if len(self.checkpoints) > 1 else self.checkpoints[0]


GAUGES = "wats_inbox", "outbox_depth", "wats_outbox"


def gauges(telemetry: Telemetry) -> dict[str, str]:
    lines = telemetry.render().body.decode().splitlines()
    return dict(line.split(" ") for line in lines if line.startswith(GAUGES))


async def kept(
    store: Any,
    *,
    families: FamilySet = FamilySet.OPERATOR,
    leads: bool = True,
    until: int = 1,
    purges: int = 0,
    log: Log = lambda _: None,
    consumers: Sequence[str] = (),
    dead_retention_days: float = 30.0,
) -> Telemetry:
    """Run the upkeep until the store was measured *until* times, and purged *purges* times."""
    telemetry = Telemetry(
        routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE, families=families
    )
    telemetry.use_targets(consumers)
    upkeep = Upkeep(
        store,
        telemetry=telemetry,
        inbox=InboxConfig(dead_retention_days=dead_retention_days),
        messages=MessagesConfig(),
        outbox=OutboxConfig(max_waiting=24),
        leads=leads,
        log=log,
        now=lambda: NOON,
        consumers=lambda: consumers,
        purge_seconds=0.001,
        measure_seconds=0.001,
    )
    await upkeep.start()
    while store.asked < until or store.purged < purges:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    await upkeep.stop()
    return telemetry


DEPTH = InboxDepth(
    consumers={
        "a": Depth(pending=3, leased=1),
        "b": Depth(leased=1, retry=1, dead=4),
        OUTBOX: Depth(pending=5, leased=6, retry=7, dead=8),
    },
    configured=frozenset({"a", "b", OUTBOX}),
    oldest_seconds=90.0,
    outbox_seconds=30.0,
)
SEEN = {
    'wats_inbox_depth{state="dead"}': "4",
    'wats_inbox_depth{state="leased"}': "2",
    'wats_inbox_depth{state="orphaned"}': "0",
    'wats_inbox_depth{state="pending"}': "3",
    'wats_inbox_depth{state="retry"}': "1",
    "wats_inbox_oldest_age_seconds": "90",
    'outbox_depth{adapter="sqlite",state="dead"}': "8",
    'outbox_depth{adapter="sqlite",state="pending"}': "12",
    'outbox_depth{adapter="sqlite",state="processing"}': "6",
    "wats_outbox_oldest_age_seconds": "30",
    "wats_outbox_fill_ratio": "0.5",
    "wats_outbox_paused": "1",
}


async def test_the_depth_of_all_consumers_is_measured() -> None:
    assert gauges(await kept(Shelf(DEPTH))) == SEEN


async def test_the_age_of_the_oldest_update_of_each_consumer_is_measured() -> None:
    class Consumers(Shelf):
        async def consumers(self) -> Sequence[ConsumerState]:
            ages = {"a": 90.0, "b": 0.0, "orphan": 500.0}
            return [state_of(name, seconds) for name, seconds in ages.items()]

    telemetry = await kept(Consumers(DEPTH), consumers=("a", "b"))

    lines = telemetry.render().body.decode().splitlines()
    assert [line for line in lines if line.startswith("wats_consumer_oldest")] == [
        'wats_consumer_oldest_age_seconds{target="a"} 90',
        'wats_consumer_oldest_age_seconds{target="b"} 0',
    ]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("a15550001234", "b15550005678"), {"other": "90"}),
        (
            ("a15550001234", *(f"h{number}" for number in range(33))),
            {**{f"h{number}": "0" for number in range(31)}, "other": "90"},
        ),
    ],
    ids=["numbers", "many"],
)
async def test_of_consumers_that_share_a_series_the_oldest_update_is_shown(names, shown) -> None:
    class Consumers(Shelf):
        async def consumers(self) -> Sequence[ConsumerState]:
            ages = dict.fromkeys(names, 0.0) | {names[0]: 90.0}
            return [state_of(name, seconds) for name, seconds in ages.items()]

    telemetry = await kept(Consumers(DEPTH), consumers=names)

    text = telemetry.render().body.decode()
    found = re.findall(
        r'^wats_consumer_oldest_age_seconds\{target="(\w+)"\} (\d+)$', text, re.MULTILINE
    )
    assert dict(found) == shown


async def test_an_empty_inbox_has_no_age() -> None:
    empty = InboxDepth(consumers={"a": Depth()}, configured=frozenset({"a"}))

    seen = gauges(await kept(Shelf(DEPTH, empty), until=2))

    assert seen.pop("wats_outbox_paused") == "1"
    assert set(seen.values()) == {"0"}


@pytest.mark.parametrize("answers", [[DEPTH, StoreUnavailable()], [StoreUnavailable(), DEPTH]])
async def test_a_lost_store_leaves_the_depth_as_it_was(answers: Sequence[Any]) -> None:
    assert gauges(await kept(Shelf(*answers), until=4)) == SEEN


async def test_a_depth_that_was_never_measured_is_not_shown() -> None:
    telemetry = await kept(Shelf(StoreUnavailable()), until=2)

    assert gauges(telemetry) == {}
    assert telemetry.errors.snapshot()["StoreUnavailable"] >= 2


async def test_a_process_without_upkeep_measures_and_purges_nothing() -> None:
    store = Shelf(DEPTH)

    await kept(store, leads=False, until=0)

    assert store.asked == store.purged == 0


async def test_the_depth_of_the_outbox_is_measured_in_the_contract_too() -> None:
    seen = gauges(await kept(Shelf(DEPTH), families=FamilySet.CONTRACT))

    assert seen == {name: value for name, value in SEEN.items() if name.startswith("outbox")}


@pytest.mark.parametrize(("days", "unseen"), [(0, 1), (0.5, 1), (1.5, 1.5), (30, 30)])
async def test_updates_of_the_consumers_of_other_replicas_are_kept_for_a_day(
    days: float, unseen: float
) -> None:
    store = Shelf(DEPTH)

    await kept(store, purges=1, dead_retention_days=days)

    assert store.retention is not None
    assert (store.retention.dead, store.retention.unseen) == (days * 86_400, unseen * 86_400)


async def test_a_process_that_does_not_lead_succeeds_without_purging() -> None:
    store = Shelf(DEPTH)
    store.is_leader = False

    telemetry = await kept(store)

    assert store.purged == 0
    assert succeeded(telemetry)["purge"] == str(int(NOON.timestamp()))


def succeeded(telemetry: Telemetry) -> dict[str, str]:
    start = "wats_upkeep_last_success_timestamp_seconds"
    lines = telemetry.render().body.decode().splitlines()
    pairs = (line.split(" ") for line in lines if line.startswith(f"{start}{{"))
    return {series.split('"')[1]: value for series, value in pairs}


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable(),
        ValueError("private"),
        asyncio.CancelledError(),
        SystemExit("private"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_upkeep_continues_after_any_exception_which_is_counted_and_logged(
    error: BaseException,
) -> None:
    store, logged = Shelf(DEPTH), list[Mapping[str, object]]()
    store.purge_errors = [error]

    telemetry = await kept(store, purges=2, log=logged.append)

    assert succeeded(telemetry)["purge"] == str(int(NOON.timestamp()))
    assert telemetry.errors.snapshot() == {type(error).__name__: 1}
    assert [(line["event"], line["method"], line["errorName"]) for line in logged] == [
        ("wats.upkeep.error", "purge", type(error).__name__)
    ]


async def test_a_task_of_the_upkeep_that_never_succeeded_has_the_time_0() -> None:
    store = Shelf(DEPTH)
    store.purge_errors = [StoreUnavailable() for _ in range(1000)]
    store.checkpoints = [False]

    assert succeeded(await kept(store)) == {
        "purge": "0",
        "checkpoint": "0",
        "measure": str(int(NOON.timestamp())),
    }


async def test_upkeep_continues_after_its_tasks_were_cancelled_by_others() -> None:
    store = Shelf(DEPTH)

    async def cancel_everything() -> None:
        while store.asked < 3:
            await asyncio.sleep(0.001)
        for task in asyncio.all_tasks() - before:
            if task is not asyncio.current_task():
                task.cancel()

    before = asyncio.all_tasks()
    cancelling = asyncio.create_task(cancel_everything())
    before.add(cancelling)
    await kept(store, until=10)

    assert store.asked >= 10
