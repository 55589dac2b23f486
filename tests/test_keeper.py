import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wats import keeper as keeper_module
from wats.config import InboxConfig, MessagesConfig
from wats.errors import StoreUnavailable
from wats.keeper import Keeper
from wats.store.records import InboxDepth
from wats.telemetry import Adapter, FamilySet, RouteLabel, Telemetry

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Shelf:
    """A store that only tells how much is in it."""

    def __init__(self, *answers: InboxDepth | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.purged = 0

    async def open(self, observe: object) -> None: ...

    async def close(self) -> None: ...

    async def inbox_depth(self) -> InboxDepth:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def purge(self, **_: object) -> int:
        self.purged += 1
        return 0


class Idle:
    """A dispatcher without work."""

    def start(self) -> None: ...

    async def stop(self, drain_seconds: float) -> None: ...


def gauges(telemetry: Telemetry) -> dict[str, str]:
    lines = telemetry.render().body.decode().splitlines()
    return dict(line.split(" ") for line in lines if line.startswith("wats_inbox"))


async def kept(
    store: Any,
    *,
    families: FamilySet = FamilySet.OPERATOR,
    chores: bool = True,
    until: int = 1,
) -> Telemetry:
    """Run a keeper until the store was asked *until* times."""
    telemetry = Telemetry(
        routes=[RouteLabel("unmatched")], adapter=Adapter.SQLITE, families=families
    )
    keeper = Keeper(
        store,
        Idle(),  # type: ignore[arg-type]  # what is asked of it, it has
        telemetry=telemetry,
        inbox=InboxConfig(),
        messages=MessagesConfig(),
        chores=chores,
        now=lambda: NOON,
    )
    await keeper.start()
    while store.asked < until:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    await keeper.stop()
    return telemetry


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "MEASURE_EVERY_SECONDS", 0.001)


DEPTH = InboxDepth(pending=3, leased=2, retry=1, dead=4, oldest_at=NOON - timedelta(seconds=90))
SEEN = {
    'wats_inbox_depth{state="dead"}': "4",
    'wats_inbox_depth{state="leased"}': "2",
    'wats_inbox_depth{state="pending"}': "3",
    'wats_inbox_depth{state="retry"}': "1",
    "wats_inbox_oldest_age_seconds": "90",
}


async def test_what_waits_in_the_inbox_is_measured() -> None:
    assert gauges(await kept(Shelf(DEPTH))) == SEEN


async def test_an_empty_inbox_has_no_age() -> None:
    empty = InboxDepth(pending=0, leased=0, retry=0, dead=0)

    seen = gauges(await kept(Shelf(DEPTH, empty), until=2))

    assert set(seen.values()) == {"0"}


@pytest.mark.parametrize("answers", [[DEPTH, StoreUnavailable()], [StoreUnavailable(), DEPTH]])
async def test_a_lost_store_leaves_the_depth_as_it_was(answers: Sequence[Any]) -> None:
    assert gauges(await kept(Shelf(*answers), until=4)) == SEEN


async def test_a_depth_that_was_never_measured_is_not_shown() -> None:
    telemetry = await kept(Shelf(StoreUnavailable()), until=2)

    assert gauges(telemetry) == {}
    assert telemetry.errors.snapshot()["StoreUnavailable"] >= 2


@pytest.mark.parametrize(
    ("families", "chores"), [(FamilySet.CONTRACT, True), (FamilySet.OPERATOR, False)]
)
async def test_nothing_is_measured_that_nobody_sees_or_another_process_measures(
    families: FamilySet, chores: bool
) -> None:
    store = Shelf(DEPTH)

    await kept(store, families=families, chores=chores, until=0)

    assert (store.asked, store.purged) == (0, int(chores))
