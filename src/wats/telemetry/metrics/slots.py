"""The slots in which an event counts, found once for all possible events. No I/O.

An event that is counted and timed has the slots of both, so that recording it is one look-up.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Final, TypeAlias

from wats.telemetry.contract.families import (
    DISPATCHES,
    GRAPH_DURATION,
    GRAPH_OPERATIONS,
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    LATENCY_BUCKETS,
    PERSISTENCE_OPERATIONS,
    STORE_DURATION,
    Family,
)
from wats.telemetry.contract.labels import OPERATION, OTHER_TARGET
from wats.telemetry.metrics.series import Axis, Block, Places

ABSENT: Final = -1
"""In place of the slot of a histogram that is not exposed."""

LATENCY_SUM: Final = len(LATENCY_BUCKETS) + 1
"""The distance of the sum of a histogram of durations from its first slot."""

Blocks: TypeAlias = Mapping[Family, Block]
"""The families that are exposed."""

Paired: TypeAlias = Places[tuple[int, int]]
"""The slot of a counter and the first of a histogram."""


def http_places(blocks: Blocks) -> Paired:
    """Return the slots of a request, by the index of its route, its method and its status class."""
    counter, histogram = blocks[HTTP_REQUESTS].places, blocks[HTTP_REQUEST_DURATION].places
    methods, routes, classes = blocks[HTTP_REQUESTS].axes
    ordinals = Axis(range(len(routes.values)), len(routes.values) - 1)
    return Places(
        (ordinals, methods, classes),
        {
            (ordinal, method, answer): (counter[method, route, answer], histogram[route, answer])
            for (ordinal, route), method, answer in product(
                enumerate(routes.values), methods.values, classes.values
            )
        },
    )


def graph_places(blocks: Blocks) -> Paired:
    """Return the slots of a Graph call, by endpoint family, outcome and status class."""
    counter, histogram = blocks[GRAPH_OPERATIONS], blocks.get(GRAPH_DURATION)
    return Places(
        counter.axes,
        {
            (family, outcome, answer): (
                slot,
                ABSENT if histogram is None else histogram.places[family, answer],
            )
            for (family, outcome, answer), slot in counter.places.items()
        },
    )


def store_places(blocks: Blocks) -> Paired | None:
    """Return the slots of an operation of the store, if any: by adapter, operation, outcome."""
    counter, histogram = blocks.get(PERSISTENCE_OPERATIONS), blocks.get(STORE_DURATION)
    if counter is None:
        return None
    adapters, outcomes = counter.axes
    axes = (adapters, Axis(OPERATION.values, OPERATION.other), outcomes)
    return Places(
        axes,
        {
            (adapter, operation, outcome): (
                counter.places[adapter, outcome],
                ABSENT if histogram is None else histogram.places[adapter, operation],
            )
            for adapter, operation, outcome in product(*(axis.values for axis in axes))
        },
    )


def dispatch_places(blocks: Blocks, names: Sequence[str]) -> Places[int] | None:
    """Return the slots of a dispatch, by the index of its target among *names* and its outcome."""
    block = blocks.get(DISPATCHES)
    if block is None:
        return None
    outcomes, _ = block.axes
    return Places(
        (Axis(range(len(names) + 1), len(names)), outcomes),
        {
            (ordinal, outcome): block.places[outcome, name]
            for (ordinal, name), outcome in product(
                enumerate((*names, OTHER_TARGET)), outcomes.values
            )
        },
    )
