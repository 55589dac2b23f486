from collections.abc import Callable, Mapping
from typing import Any

import pytest

from wats.telemetry import UNMATCHED, Adapter, Method, RouteLabel, Telemetry

ROUTES = (
    RouteLabel("/healthz", (Method.GET, Method.HEAD)),
    RouteLabel("/messages/:id", (Method.GET,)),
    RouteLabel("/messages", (Method.GET, Method.POST)),
    RouteLabel(UNMATCHED),
)


@pytest.fixture
def routes() -> tuple[RouteLabel, ...]:
    return ROUTES


@pytest.fixture
def logged() -> list[Mapping[str, object]]:
    return []


@pytest.fixture
def make_telemetry(logged: list[Mapping[str, object]]) -> Callable[..., Telemetry]:
    def make(**settings: Any) -> Telemetry:
        defaults = {"routes": ROUTES, "adapter": Adapter.SQLITE, "log": logged.append}
        return Telemetry(**{**defaults, **settings})

    return make


@pytest.fixture
def telemetry(make_telemetry: Callable[..., Telemetry]) -> Telemetry:
    return make_telemetry()
