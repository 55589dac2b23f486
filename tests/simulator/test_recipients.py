from dataclasses import fields
from pathlib import Path

import pytest

from wats.graph.errors import RULES
from wats.simulator.recipients import (
    BY_SUFFIX,
    FAILED_PREFIX,
    REFUSED_PREFIX,
    USUAL,
    as_markdown,
    behavior_of,
)
from wats.simulator.settings import Counts, SimulatorSettings

DOCS = Path(__file__).parents[2] / "docs" / "simulator.md"
CODES = sorted({rule.code for rule in RULES})


def test_the_documented_table_is_the_real_one() -> None:
    assert as_markdown() in DOCS.read_text()


@pytest.mark.parametrize("name", [one.name for one in fields(SimulatorSettings) + fields(Counts)])
def test_every_setting_and_count_is_documented(name: str) -> None:
    assert f"`{name}`" in DOCS.read_text()


@pytest.mark.parametrize("suffix", BY_SUFFIX)
def test_the_last_digits_select_the_outcome(suffix: str) -> None:
    assert behavior_of(f"1555000{suffix}") is BY_SUFFIX[suffix]


@pytest.mark.parametrize("recipient", ["", "1", "15550002222", "19990000042", "1999x131026"])
def test_other_recipients_are_served_as_usual(recipient: str) -> None:
    assert behavior_of(recipient) is USUAL


@pytest.mark.parametrize("code", CODES)
def test_every_error_of_the_table_can_be_provoked(code: int) -> None:
    refusal = behavior_of(f"{REFUSED_PREFIX}{code:07}").refusal

    assert refusal is not None
    assert refusal.code == code


@pytest.mark.parametrize("code", CODES)
def test_every_error_of_the_table_can_be_had_as_a_status(code: int) -> None:
    behavior = behavior_of(f"{FAILED_PREFIX}{code:07}")

    assert (behavior.failure, behavior.statuses) == (code, ("failed",))
