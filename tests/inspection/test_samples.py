import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wats.inspection.samples import (
    LARGEST_VALUE,
    MAX_LINE_CHARACTERS,
    MAX_LINES,
    NotAnExposition,
    Samples,
)

SCRAPE = """\
# HELP asked_total How often.
# TYPE asked_total counter
asked_total{how="well",what="a"} 3
asked_total{how="badly",what="a"} 1
asked_total{how="well",what="b"} 5
# TYPE depth gauge
depth 7
# TYPE took_seconds histogram
took_seconds_bucket{what="a",le="0.1"} 50
took_seconds_bucket{what="a",le="1"} 90
took_seconds_bucket{what="a",le="+Inf"} 100
took_seconds_sum{what="a"} 41.5
took_seconds_count{what="a"} 100
"""


def counting(**counts: float) -> Samples:
    lines = [f'n_total{{what="{what}"}} {count}' for what, count in counts.items()]
    return Samples.parse("\n".join(["# TYPE n_total counter", *lines]) + "\n")


def test_series_are_added_up_by_their_labels() -> None:
    samples = Samples.parse(SCRAPE)

    assert samples.total("asked_total") == 9
    assert samples.total("asked_total", how="well") == 8
    assert samples.total("asked_total", how="well", what="b") == 5
    assert samples.total("asked_total", how="never") == 0
    assert samples.total("unasked_total") == 0
    assert samples.split("asked_total", "what") == {"a": 4, "b": 5}
    assert samples.split("asked_total", "what", how="badly") == {"a": 1}
    assert (samples.has("depth"), samples.has("height")) == (True, False)
    assert len(samples) == 9


@given(
    value=st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: len(text) < 400),
    number=st.floats(-LARGEST_VALUE, LARGEST_VALUE),
)
def test_any_label_value_and_any_number_is_read_as_written(value, number) -> None:
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    samples = Samples.parse(f'x_total{{a="{escaped}",b="}}"}} {number!r}\n')

    assert list(samples) == [("x_total", (("a", value), ("b", "}")), number)]


@pytest.mark.parametrize(
    "line",
    [
        "<html>",
        "a_total",
        "a_total one",
        "a_total{b} 1",
        'a_total{b="1" 1',
        'a_total{b="1",,c="2"} 1',
        'a_total{b="1"c="2"} 1',
        'a_total{b="1",b="2"} 1',
        "a_total 1 1700000000000",
        'a_total 1 # {trace_id="1"} 1',
        'a_bucket{le="many"} 1',
        "a_total NaN",
        "a_total +Inf",
        "a_total 1e19",
        f"a_total 1{'0' * 400}",
        "# TYPE \xa0 counter",
        "# TYPE a_total canary",
        f'a_total{{b="{"x" * MAX_LINE_CHARACTERS}"}} 1',
        "a_total 1\n" * MAX_LINES,
    ],
    ids=lambda line: line[:30],
)
def test_text_that_is_not_an_exposition_is_refused(line) -> None:
    with pytest.raises(NotAnExposition) as caught:
        Samples.parse(f"a_total 1\n{line}\n")

    assert str(caught.value) == ""


def test_the_largest_exposition_is_read() -> None:
    line = f'a_total{{b="{"x" * (MAX_LINE_CHARACTERS - 15)}"}} 1'

    samples = Samples.parse("# a comment\n" * (MAX_LINES - 2) + f"{line}\n")

    assert len(samples) == 1


@given(st.text(st.sampled_from(list('{}"\\,= #\n\t\r\xa0\x85_:aeTYPHLle1+.\0')) | st.characters()))
@example("# TYPE \x85 counter")
def test_any_text_is_an_exposition_or_refused(text) -> None:
    try:
        samples = Samples.parse(text)
    except NotAnExposition:
        return

    assert all(abs(value) <= LARGEST_VALUE for _, _, value in samples)


@pytest.mark.parametrize(
    ("share", "estimate"),
    [(0.25, 0.05), (0.5, 0.1), (0.7, 0.55), (0.9, 1.0), (0.95, math.inf)],
)
def test_a_quantile_is_estimated_within_its_bucket(share, estimate) -> None:
    assert Samples.parse(SCRAPE).quantile(share, "took_seconds") == pytest.approx(estimate)


def test_a_histogram_without_observations_has_no_quantile() -> None:
    nothing = Samples.parse('took_seconds_bucket{le="1"} 0\ntook_seconds_bucket{le="+Inf"} 0\n')

    assert nothing.quantile(0.5, "took_seconds") is None
    assert Samples().quantile(0.5, "took_seconds") is None
    assert Samples.parse(SCRAPE).quantile(0.5, "took_seconds", what="b") is None


def test_an_increase_includes_only_counters_that_have_grown() -> None:
    grown = SCRAPE.replace('"b"} 5', '"b"} 8').replace("depth 7", "depth 9")

    increase = Samples.parse(grown).increase_since(Samples.parse(SCRAPE))

    assert list(increase) == [("asked_total", (("how", "well"), ("what", "b")), 3)]


def test_the_increase_of_a_histogram_has_every_bucket() -> None:
    grown = SCRAPE.replace('"1"} 90', '"1"} 95').replace('Inf"} 100', 'Inf"} 105')

    increase = Samples.parse(grown).increase_since(Samples.parse(SCRAPE))

    # All five are in the bucket from 0.1 to 1; without the empty one they would be from 0 on.
    assert increase.quantile(0.5, "took_seconds") == pytest.approx(0.55)


def test_a_new_series_has_grown_from_zero() -> None:
    increase = counting(old=1, new=4).increase_since(counting(old=1))

    assert increase.split("n_total", "what") == {"new": 4}


@pytest.mark.parametrize(
    "before", [{"a": 5, "b": 1}, {"a": 1, "b": 1, "gone": 1}], ids=["fell", "gone"]
)
def test_a_lower_or_missing_counter_marks_a_restart_of_all_series(before) -> None:
    increase = counting(a=3, b=2).increase_since(counting(**before))

    assert increase.split("n_total", "what") == {"a": 3, "b": 2}


def test_parts_can_be_added_up() -> None:
    whole = Samples.sum([counting(a=1), counting(a=2, b=3), Samples()])

    assert whole.split("n_total", "what") == {"a": 3, "b": 3}
    assert whole.increase_since(counting(a=1)).total("n_total", what="a") == 2
