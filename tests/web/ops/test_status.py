"""The snapshot for operators, inside the process."""

import asyncio
import json
import time
from typing import Never

import pytest
from typing_extensions import override

from tests.web.conftest import call
from wats.service import create_wats_service_app
from wats.store.sqlite import SQLiteStore
from wats.testing import BEARER_TOKEN, example_profile, example_secrets
from wats.web.ops.health import HEALTH_SECONDS


class HangingStore(SQLiteStore):
    """A store that never responds to a read."""

    @override
    async def health(self) -> Never:
        await asyncio.Event().wait()
        raise AssertionError

    @override
    async def depth(self) -> Never:
        await self.health()


@pytest.mark.parametrize("path", ["/status", "/debug/diagnostics"])
async def test_a_store_that_hangs_costs_a_second(path: str) -> None:
    app = create_wats_service_app(
        profile=example_profile(), secrets=example_secrets(), persistence=HangingStore(":memory:")
    )
    headers = {"authorization": f"Bearer {BEARER_TOKEN}"}
    began_at = time.monotonic()

    async with asyncio.timeout(10):
        answer = await call(app, "GET", path, headers, None)

    assert time.monotonic() - began_at < 1.8 * HEALTH_SECONDS
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
