from wats.telemetry.repeats import INTERVAL_SECONDS, MAX_KEYS, Repeats


def test_a_line_is_admitted_once_an_interval_with_the_number_of_omitted_ones() -> None:
    now = 0.0
    repeats = Repeats(lambda: now)

    first = [repeats.admit("a") for _ in range(5)]
    other = repeats.admit("b")
    now = INTERVAL_SECONDS
    later = [repeats.admit("a"), repeats.admit("a")]

    assert first == [0, None, None, None, None]
    assert other == 0
    assert later == [4, None]


def test_the_line_that_was_written_longest_ago_is_forgotten_above_the_limit() -> None:
    repeats = Repeats(lambda: 0.0)
    for key in range(MAX_KEYS):
        repeats.admit(key)
    assert repeats.admit(0) is None

    repeats.admit("one more")

    assert repeats.admit(0) == 0
    assert repeats.admit("one more") is None
