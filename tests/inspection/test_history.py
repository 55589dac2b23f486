import pytest

from wats.inspection.history import MAX_STEPS, History
from wats.inspection.samples import Samples


def counted(count: float) -> Samples:
    return Samples.parse(f"# TYPE n_total counter\nn_total {count}\n")


def total(samples: Samples) -> float:
    return samples.total("n_total")


def seen(*looks: tuple[float, float] | None) -> History:
    history = History()
    for look in looks:
        if look is None:
            history.miss()
        else:
            history.look(look[0], counted(look[1]))
    return history


def test_a_single_scrape_has_no_rate() -> None:
    history = seen((0, 100))

    assert history.rates(total) == []
    assert history.watched.total("n_total") == 0
    assert history.latest.total("n_total") == 100


def test_rates_are_by_the_second() -> None:
    assert seen((0, 100), (2, 110), (6, 118)).rates(total) == [5, 2]


def test_watching_shows_the_increase_since_the_first_scrape() -> None:
    assert seen((0, 100), (2, 110), (4, 118)).watched.total("n_total") == 18


def test_a_failed_scrape_is_a_gap_and_loses_no_increase() -> None:
    history = seen((0, 0), (1, 2), None, None, (4, 8))

    assert history.rates(total) == [2, None, None, 2]
    assert history.watched.total("n_total") == 8


def test_a_restarted_service_counts_from_zero() -> None:
    history = seen((0, 1000), (1, 1010), (2, 4), (3, 6))

    assert history.rates(total) == [10, 4, 2]
    assert history.watched.total("n_total") == 16


def test_two_simultaneous_scrapes_do_not_divide_by_zero() -> None:
    assert seen((5, 0), (5, 1)).rates(total) == [pytest.approx(1000)]


def test_recent_figures_cover_the_last_minute() -> None:
    history = seen(*((10.0 * step, step) for step in range(20)))

    assert history.recent().total("n_total") == 6


def test_a_history_does_not_grow_without_limit() -> None:
    history = seen(*((step, step) for step in range(MAX_STEPS + 50)))

    assert len(history.rates(total)) == MAX_STEPS
    assert history.watched.total("n_total") == MAX_STEPS + 49
