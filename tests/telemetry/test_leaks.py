"""No text of a customer can enter telemetry, even if types are ignored."""

import inspect
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import get_type_hints

import pytest

from tests.telemetry.facade_model import RECORDING, telemetry_of_three_routes
from wats.telemetry import Outcome, Telemetry, UpdateKind
from wats.telemetry.contract.values import LabelValue
from wats.testing import CapturingTelemetrySink
from wats.version import __version__

ASKING = {"metric_families", "render", "use_targets"}
"""Methods that the service calls for itself and that record no event."""

LEAK = "+4915112345678"


def open_to_text(seam: type) -> Iterator[tuple[str, str]]:
    """Yield every parameter of a recording method of *seam* that could carry a text."""
    for name, method in inspect.getmembers(seam, inspect.isfunction):
        if name.startswith("_") or name in ASKING:
            continue
        hints = get_type_hints(method)
        for parameter in list(inspect.signature(method).parameters)[1:]:
            hint = hints.get(parameter, object)
            if not (isinstance(hint, type) and issubclass(hint, LabelValue | int | float)):
                yield name, parameter


def test_no_text_can_enter_telemetry():
    methods = {name for name, _ in inspect.getmembers(Telemetry, inspect.isfunction)}

    assert {name for name in methods if not name.startswith("_")} == set(RECORDING) | ASKING
    assert list(open_to_text(Telemetry)) == []


def test_a_method_that_would_take_a_text_is_found():
    class Leaking(Telemetry):
        def message_from(self, sender: str, count: int) -> None: ...

        def message_to(self, recipient, seconds: float): ...  # type: ignore[no-untyped-def]

        def message_of(self, kind: UpdateKind | str) -> None: ...

    assert list(open_to_text(Leaking)) == [
        ("message_from", "sender"),
        ("message_of", "kind"),
        ("message_to", "recipient"),
    ]


def test_the_recording_methods_accept_the_values_of_the_tests():
    for name, expected in RECORDING.items():
        hints = get_type_hints(getattr(Telemetry, name))
        assert hints.pop("return") is type(None), name
        assert tuple(hints.values()) == expected, name


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
        getattr(telemetry, name)(*valid[:place], LEAK, *valid[place + 1 :])
    getattr(telemetry, name)(*valid)

    said = [telemetry.render(accept).body.decode() for accept in (None, "application/*")]
    said += [repr(sink), repr(logged), repr(telemetry.errors.snapshot())]
    assert not any(LEAK in each for each in said)
    assert sink != CapturingTelemetrySink()


def test_a_phone_number_cannot_be_the_name_of_a_handler():
    sink = CapturingTelemetrySink()
    telemetry = telemetry_of_three_routes(sink=sink)

    telemetry.use_targets([LEAK, f"shop:{LEAK}", "shop:on order", "shop\n", "4915112345678"])
    for target in range(5):
        telemetry.dispatched(target, UpdateKind.MESSAGE, Outcome.SUCCESS, 0.1)

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
