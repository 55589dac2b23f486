"""No text of a customer can enter telemetry, even if types are ignored."""

import inspect
from collections.abc import Iterator, Mapping
from enum import Enum

import pytest

from tests.telemetry.facade_model import (
    ASKING,
    RECORDERS,
    RECORDING,
    methods_of,
    record,
    telemetry_of_three_routes,
    types_of,
)
from wats.telemetry import Outcome, Telemetry, UpdateKind
from wats.telemetry.contract.families import GRAPH_ERRORS
from wats.telemetry.contract.values import LabelValue
from wats.telemetry.recorders import WebhookRecorder
from wats.telemetry.recording import Described, Recorder, counted, gauged, timed
from wats.testing import CapturingTelemetrySink
from wats.version import __version__

LEAK = "+4915112345678"


def open_to_text(recorder: type[Recorder]) -> Iterator[tuple[str, str]]:
    """Yield every parameter of a recording method of *recorder* that could carry a text."""
    for name, method in methods_of(recorder).items():
        for parameter, hint in types_of(method).items():
            if not (isinstance(hint, type) and issubclass(hint, LabelValue | int | float)):
                yield name, parameter


def test_no_text_can_enter_telemetry(telemetry: Telemetry):
    methods = {name for name, _ in inspect.getmembers(Telemetry, inspect.isfunction)}
    attributes = {name for name in vars(telemetry) if not name.startswith("_")}

    assert {name for name in methods if not name.startswith("_")} == ASKING
    assert attributes == {*RECORDERS, "errors", "tracer", "wants_update_metrics"}
    assert {name: list(open_to_text(of)) for name, of in RECORDERS.items()} == {
        name: [] for name in RECORDERS
    }


def test_a_method_that_would_take_a_text_is_found():
    class Leaking(WebhookRecorder):
        @counted(GRAPH_ERRORS)
        def message_from(self, sender: str, count: int) -> Described: ...

        def message_to(self, recipient, seconds: float): ...  # type: ignore[no-untyped-def]

        def message_of(self, kind: UpdateKind | str) -> None: ...

    assert list(open_to_text(Leaking)) == [
        ("message_from", "sender"),
        ("message_of", "kind"),
        ("message_to", "recipient"),
    ]


def takes_a_text(self, sender: str, count: int) -> Described: ...
def takes_a_text_or_a_kind(self, kind: UpdateKind | str, count: int) -> Described: ...
def takes_anything(self, kind, count: int) -> Described: ...  # type: ignore[no-untyped-def]
def counts_a_text(self, kind: UpdateKind, count: str) -> Described: ...


@pytest.mark.parametrize(
    "method", [takes_a_text, takes_a_text_or_a_kind, takes_anything, counts_a_text]
)
@pytest.mark.parametrize("primitive", [counted, timed, gauged])
def test_an_event_that_would_take_a_text_is_refused(telemetry: Telemetry, method, primitive):
    class Leaking(Recorder):
        event = primitive(GRAPH_ERRORS)(method)

    with pytest.raises(TypeError, match="text"):
        Leaking(telemetry.graph.destination)


def test_no_list_of_values_has_a_member_that_is_made_at_run_time():
    for of in LabelValue.__subclasses__():
        assert "_missing_" not in vars(of)
        assert all(name == member.name for name, member in of.__members__.items())


@pytest.mark.parametrize("name", RECORDING)
def test_a_phone_number_that_is_recorded_gets_nowhere(name: str):
    sink = CapturingTelemetrySink()
    logged: list[Mapping[str, object]] = []
    telemetry = telemetry_of_three_routes(sink=sink, log=logged.append)
    valid = [next(iter(of)) if issubclass(of, Enum) else 1 for of in RECORDING[name]]

    for place in range(len(valid)):
        record(telemetry, name, [*valid[:place], LEAK, *valid[place + 1 :]])
    record(telemetry, name, valid)

    said = [telemetry.render(accept).body.decode() for accept in (None, "application/*")]
    said += [repr(sink), repr(logged), repr(telemetry.errors.snapshot())]
    assert not any(LEAK in each for each in said)
    assert sink != CapturingTelemetrySink()


def test_a_phone_number_cannot_be_the_name_of_a_handler():
    sink = CapturingTelemetrySink()
    telemetry = telemetry_of_three_routes(sink=sink)

    telemetry.use_targets([LEAK, f"shop:{LEAK}", "shop:on order", "shop\n", "4915112345678"])
    for target in range(5):
        telemetry.webhooks.dispatched(target, UpdateKind.MESSAGE, Outcome.SUCCESS, 0.1)

    assert LEAK not in telemetry.render().body.decode() + repr(sink)
    assert 'target="other"} 5\n' in telemetry.render().body.decode()


def test_an_invalid_version_is_not_exposed():
    said = [
        telemetry_of_three_routes(graph_api_version=text).render().body.decode()
        for text in ("v25.0", LEAK, 'v25.0"', "v25.0\n", "")
    ]

    versions = [line for text in said for line in text.splitlines() if "build_info{" in line]
    assert versions == [
        f'wats_build_info{{graph_api_version="{graph}",version="{__version__}"}} 1'
        for graph in ("v25.0", *["unknown"] * 4)
    ]
