"""The snapshot for operators, inside the process."""

import asyncio
import json
from typing import Never

import pytest
from typing_extensions import override

from tests.web.conftest import call
from wats.service import create_wats_service_app
from wats.store.sqlite import SQLiteStore
from wats.testing import BEARER_TOKEN, example_profile, example_secrets


class HangingStore(SQLiteStore):
    """A store that never responds to a read."""

    waiting = most_waiting = 0

    async def hang(self) -> Never:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
        raise AssertionError

    @override
    async def health(self) -> Never:
        await self.hang()

    @override
    async def depth(self) -> Never:
        await self.hang()


@pytest.mark.parametrize(("path", "reads"), [("/status", 2), ("/debug/diagnostics", 1)])
async def test_a_store_that_hangs_is_reported_after_concurrent_reads(path: str, reads: int) -> None:
    store = HangingStore(":memory:")
    app = create_wats_service_app(
        profile=example_profile(), secrets=example_secrets(), persistence=store
    )
    headers = {"authorization": f"Bearer {BEARER_TOKEN}"}

    async with asyncio.timeout(60):
        answer = await call(app, "GET", path, headers, None)

    assert store.most_waiting == reads
    assert answer.status == 200
    assert json.loads(answer.body)["persistence"]["ok"] is False
    assert json.loads(answer.body).get("inbox") is None


@pytest.mark.parametrize("path", ["/status", "/debug/diagnostics"])
async def test_a_store_that_can_be_used_is_reported_as_ok(path: str) -> None:
    app = create_wats_service_app(
        profile=example_profile(), secrets=example_secrets(), persistence=SQLiteStore(":memory:")
    )
    headers = {"authorization": f"Bearer {BEARER_TOKEN}"}
    await app.start()

    answer = await call(app, "GET", path, headers, None)
    await app.stop()

    assert json.loads(answer.body)["persistence"]["ok"] is True
