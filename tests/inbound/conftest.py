import json
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wats.inbound.envelope import parse
from wats.inbound.normalize import Normalized, normalize
from wats.inbound.updates import Update

CORPUS = Path(__file__).parents[1] / "corpus" / "webhooks.jsonl"
RECEIVED_AT = datetime(2026, 11, 22, 15, 24, tzinfo=UTC)


@pytest.fixture(scope="session")
def received_at() -> datetime:
    return RECEIVED_AT


@pytest.fixture(scope="session")
def corpus() -> dict[str, Any]:
    rows = map(json.loads, CORPUS.read_text().splitlines())
    return {row["name"]: row["body"] for row in rows}


@pytest.fixture(scope="session")
def read() -> Callable[..., Normalized]:
    """Take a body the whole way: to bytes, through the parser, to updates."""

    def read_body(body: Any, *, received_at: datetime = RECEIVED_AT) -> Normalized:
        return normalize(parse(msgspec.json.encode(body)), received_at=received_at)

    return read_body


@pytest.fixture
def body(corpus: dict[str, Any]) -> Callable[[str], Any]:
    """Return a body of the corpus by its name, free to be changed."""
    return lambda name: deepcopy(corpus[name])


@pytest.fixture
def update(corpus: dict[str, Any], read: Callable[..., Normalized]) -> Callable[..., Update]:
    """Return the one update of a body of the corpus, after members of its item were replaced."""

    def update_of(name: str, **changes: Any) -> Update:
        envelope = deepcopy(corpus[name])
        value = envelope["entry"][0]["changes"][0]["value"]
        items = next(value[key] for key in ("messages", "statuses", "calls") if key in value)
        for key, changed in changes.items():
            if changed is None:
                items[0].pop(key, None)
            else:
                items[0][key] = changed
        (only,) = read(envelope).updates
        return only

    return update_of
