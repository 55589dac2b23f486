from itertools import product

import pytest

from wats.telemetry import Adapter, Board, Method, Outcome, RouteLabel, StatusClass
from wats.telemetry.contract.families import (
    BUILD_INFO,
    FAMILIES,
    GRAPH_OPERATIONS,
    HTTP_REQUEST_DURATION,
    HTTP_REQUESTS,
    INBOX_DEPTH,
    OUTBOX_DEPTH,
    OUTBOX_PROCESSED,
    PERSISTENCE_OPERATIONS,
    SEND_OUTCOMES,
    STORE_DURATION,
    Family,
)
from wats.telemetry.contract.labels import Subjects
from wats.telemetry.contract.values import EndpointFamily, Kind, StoreOperation
from wats.telemetry.metrics.series import Axis, Block, Places, Registry


@pytest.fixture
def subjects(routes: tuple[RouteLabel, ...]) -> Subjects:
    return Subjects(routes=routes, adapter=Adapter.SQLITE, version="0.1.0")


@pytest.fixture
def registry(subjects: Subjects) -> Registry:
    return Registry(FAMILIES, subjects, board=Board())


def block_of(registry: Registry, family: Family) -> Block:
    return next(block for block in registry.blocks if block.family is family)


def test_every_series_has_slots_of_its_own(registry: Registry):
    gauges = [block for block in registry.blocks if block.family.kind is Kind.GAUGE]
    others = [block for block in registry.blocks if block.family.kind is not Kind.GAUGE]

    for blocks, spare, slots in (
        (gauges, [], registry.gauges),
        (others, [registry.spare], registry.slots),
    ):
        taken = [
            slot
            for block in blocks
            for values in block.series
            for slot in range(block.places[values], block.places[values] + block.width)
        ]
        assert taken + spare == list(range(len(slots)))


def test_every_combination_of_label_values_counts_for_a_series_that_can_be(registry: Registry):
    for block in registry.blocks:
        own = {block.places[values] for values in block.series}
        every = product(*(axis.values for axis in block.axes))
        assert {block.places[values] for values in every} == own, block.family.name


def test_a_value_outside_the_closed_list_counts_for_the_fallback(
    registry: Registry,
):
    places = block_of(registry, HTTP_REQUESTS).places
    known = len(places)

    assert (
        places["PROPFIND", "/secret", 99]
        == places[Method.UNKNOWN, "unmatched", StatusClass.UNKNOWN]
    )
    assert len(places) == known


@pytest.mark.parametrize(
    ("family", "impossible", "nearest"),
    [
        (HTTP_REQUESTS, ("GET", "/messages/:id", "3xx"), ("GET", "/messages/:id", "unknown")),
        (HTTP_REQUESTS, ("PUT", "/messages/:id", "5xx"), ("unknown", "/messages/:id", "5xx")),
        (HTTP_REQUESTS, ("PUT", "unmatched", "2xx"), ("unknown", "unmatched", "unknown")),
        (HTTP_REQUEST_DURATION, ("unmatched", "2xx"), ("unmatched", "unknown")),
        (GRAPH_OPERATIONS, ("media", "success", "4xx"), ("media", "error", "4xx")),
        (GRAPH_OPERATIONS, ("media", "skipped", "2xx"), ("media", "error", "unknown")),
        (PERSISTENCE_OPERATIONS, ("postgres", "success"), ("unknown", "success")),
        (STORE_DURATION, ("postgres", "claim"), ("unknown", "unknown")),
        (BUILD_INFO, ("unknown", "unknown"), ("unknown", "0.1.0")),
    ],
)
def test_an_impossible_series_counts_for_the_nearest_possible_one(
    registry: Registry, family: Family, impossible: tuple[str, ...], nearest: tuple[str, ...]
):
    block = block_of(registry, family)

    assert impossible not in block.series
    assert nearest in block.series
    assert block.places[impossible] == block.places[nearest]


def test_statuses_except_redirections_and_served_methods_have_series(
    registry: Registry,
):
    series = set(block_of(registry, HTTP_REQUESTS).series)

    assert not [values for values in series if StatusClass.REDIRECTION in values]
    assert ("DELETE", "/messages", "4xx") in series
    assert ("DELETE", "/messages", "2xx") not in series
    assert ("POST", "/messages", "2xx") in series


def test_a_graph_call_is_a_success_exactly_if_it_was_2xx(registry: Registry):
    series = block_of(registry, GRAPH_OPERATIONS).series

    assert {(outcome, answer == StatusClass.SUCCESS) for _, outcome, answer in series} == {
        (Outcome.SUCCESS, True),
        (Outcome.ERROR, False),
    }
    assert {family for family, _, _ in series} == set(EndpointFamily)


def test_one_database_is_known_and_one_represents_all_others(registry: Registry):
    durations = block_of(registry, STORE_DURATION).series

    assert set(durations) == {("sqlite", operation) for operation in StoreOperation} | {
        ("unknown", "unknown")
    }


def test_a_histogram_has_slots_for_each_bucket_the_overflow_and_the_sum(
    registry: Registry,
):
    block = block_of(registry, HTTP_REQUEST_DURATION)

    assert (block.width, block.lines) == (11 + 1 + 1, 11 + 1 + 1 + 1)


def test_a_family_has_a_block_only_if_it_has_a_subject(routes: tuple[RouteLabel, ...]):
    def families(adapter: Adapter | None) -> set[Family]:
        subjects = Subjects(routes=routes, adapter=adapter)
        return {block.family for block in Registry(FAMILIES, subjects, board=Board()).blocks}

    of_the_store = {PERSISTENCE_OPERATIONS, STORE_DURATION, INBOX_DEPTH}
    of_the_store |= {OUTBOX_DEPTH, OUTBOX_PROCESSED}
    assert of_the_store <= families(Adapter.POSTGRES)
    assert not of_the_store & families(None)


def test_the_rows_of_all_processes_are_summed(subjects: Subjects):
    board = Board(3)
    registries = [Registry([SEND_OUTCOMES], subjects, board=board, row=row) for row in range(3)]

    for registry, number in zip(registries, (1.0, 1000.0, 7.0), strict=True):
        registry.slots[4] += number

    assert [registry.totals()[4] for registry in registries] == [1008.0] * 3


def test_a_replacement_process_continues_the_counts(subjects: Subjects):
    board = Board(2)
    Registry([SEND_OUTCOMES], subjects, board=board, row=1).slots[0] += 1.0

    replacing = Registry([SEND_OUTCOMES], subjects, board=board, row=1)
    replacing.slots[0] += 1.0

    assert replacing.totals()[0] == 2.0


def test_a_gauge_is_one_for_all_processes(subjects: Subjects):
    board = Board(2)
    one, other = (Registry([INBOX_DEPTH], subjects, board=board, row=row) for row in range(2))

    one.gauges[0] = 3.0
    other.gauges[0] = 5.0

    assert one.gauges[0] == 5.0


def test_the_budget_is_the_number_of_lines_of_all_possible_series(subjects: Subjects):
    registry = Registry([SEND_OUTCOMES, HTTP_REQUEST_DURATION], subjects, board=Board())

    outcomes = len(EndpointFamily) * len(Outcome)
    durations = 14 * (3 * 4 + 3)  # three routes with four classes each, unmatched with three
    assert registry.budget == outcomes + durations


def test_an_unknown_value_is_looked_up_as_the_fallback():
    axes = [Axis(("a", "b"), "b"), Axis((1, 2), 1)]
    items = {("a", 1): "a1", ("a", 2): "a2", ("b", 1): "b1", ("b", 2): "b2"}.items()
    places = Places(axes, items)

    assert [places["a", 2], places["z", 2], places["a", 9], places[None, "x"]] == [
        "a2",
        "b2",
        "a1",
        "b1",
    ]
