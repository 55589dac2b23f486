"""How operations are gathered into transactions."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from wats.store import group_commit
from wats.store.group_commit import FEWEST_TO_REUNITE, GroupCommit, StoreRequest
from wats.telemetry.contract.values import StoreOperation

TURNS = 2 * group_commit.MAX_ROUNDS
"""More turns of the event loop than a batch waits for."""


class Transactions:
    """Records the size of each transaction, whose operations end when the test says so."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._open: list[StoreRequest] = []
        self._group = GroupCommit(self._take, lambda *_: None, None)

    def _take(self, requests: list[StoreRequest]) -> None:
        self.sizes.append(sum(request.size for request in requests))
        self._open += requests

    async def add(self, count: int) -> None:
        """Submit *count* operations, and let the loop turn."""
        run: Callable[..., Any] = len
        for _ in range(count):
            self._group.join(StoreOperation.RECEIVE, run, (), lambda *_: None)
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def end(self) -> None:
        """End the operations of the open transactions."""
        ended, self._open = self._open, []
        for request in ended:
            request.results = [None] * request.size
        self._group.end(ended)


@pytest.fixture
def reunion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch wait for others for longer than a test lasts."""
    monkeypatch.setattr(group_commit, "REUNION_SECONDS", 3600)


@pytest.mark.usefixtures("reunion")
@pytest.mark.parametrize(
    ("before", "waits"), [(1, False), (FEWEST_TO_REUNITE - 1, False), (FEWEST_TO_REUNITE, True)]
)
async def test_an_operation_waits_for_others_only_after_a_transaction_of_many(
    before: int, *, waits: bool
) -> None:
    transactions = Transactions()
    await transactions.add(before)
    transactions.end()

    await transactions.add(1)

    assert transactions.sizes == [before, *([] if waits else [1])]


@pytest.mark.usefixtures("reunion")
async def test_a_transaction_waits_for_no_more_than_three_quarters_of_the_one_before() -> None:
    transactions = Transactions()
    await transactions.add(64)
    transactions.end()

    await transactions.add(48)

    assert transactions.sizes == [64, 48]


async def test_operations_that_arrive_during_a_transaction_share_the_next_one() -> None:
    transactions = Transactions()
    await transactions.add(1)
    for _ in range(3):
        await transactions.add(2)

    transactions.end()
    await transactions.add(0)

    assert transactions.sizes == [1, 6]
