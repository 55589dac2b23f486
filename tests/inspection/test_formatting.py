import math

import pytest

from wats.inspection.formatting import (
    format_count,
    format_rate,
    format_seconds,
    format_uptime,
    graph,
    printable,
    shorten,
)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (7, "7"),
        (99_999, "99999"),
        (100_000, "100k"),
        (123_456, "123k"),
        (1_234_567, "1.2M"),
        (123_456_789, "123M"),
        (2_500_000_000, "2.5G"),
    ],
)
def test_a_count_has_six_characters_at_most(count, shown) -> None:
    assert format_count(count) == shown


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(None, "-"), (0, "0"), (0.014, "0.01"), (2.5, "2.50"), (11.04, "11.0"), (2646.2, "2646")],
)
def test_a_rate_has_as_many_digits_as_it_deserves(rate, shown) -> None:
    assert format_rate(rate) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0, "0.0s"),
        (0.0004, "0.4ms"),
        (0.0123, "12ms"),
        (0.9, "900ms"),
        (1.24, "1.2s"),
        (75, "75s"),
        (150, "2m"),
        (7300, "2h"),
        (math.inf, ">10s"),
    ],
)
def test_a_duration_has_its_own_unit(seconds, shown) -> None:
    assert format_seconds(seconds, top=10) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.001, "<5.0ms"), (0.005, "<5.0ms"), (0.006, "6.0ms")]
)
def test_a_duration_below_the_resolution_is_shown_as_an_upper_bound(seconds, shown) -> None:
    assert format_seconds(seconds, bottom=0.005) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min 0 s"),
        (3 * 3600 + 12 * 60 + 9, "3 h 12 min"),
        (40 * 86400 + 59, "40 d 0 h"),
    ],
)
def test_an_uptime_has_two_units(seconds, shown) -> None:
    assert format_uptime(seconds) == shown


def test_a_graph_scales_from_zero_to_the_maximum() -> None:
    values = [0, 0.001, 1, 2, 3, 4, 5, 6, 7, None, 7]

    assert graph(values, 12) == " ▁▂▂▃▄▅▆▇█ █"
    assert graph(values, 12, is_ascii=True) == " _..-:=+*# #"


def test_a_graph_shows_the_latest() -> None:
    assert graph([9, 9, 0, 7], 2) == "▁█"
    assert graph([], 3) == "   "
    assert graph([None, None], 3) == "   "


def test_a_long_text_loses_its_middle() -> None:
    assert shorten("/api/conversations/:phone/window", 19) == "/api/conv…ne/window"
    assert shorten("abcdefgh", 5, is_ascii=True) == "ab~gh"
    assert shorten("abc", 3) == "abc"


def test_control_characters_are_not_shown() -> None:
    assert printable("a\x1b[2Jb\x07\nc") == "a?[2Jb??c"
    assert printable("café", is_ascii=True) == "caf?"
