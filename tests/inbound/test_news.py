from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wats.clock import EPOCH
from wats.inbound.news import News
from wats.inbound.updates import Update
from wats.store.records import StatusRecord
from wats.telemetry.contract.values import ErrorCategory, FinalOutcome, UpdateKind

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Told:
    """Notes what telemetry is told."""

    def __init__(self) -> None:
        self.wants_news = True
        self.lags: list[float] = []
        self.final: list[tuple[FinalOutcome, ErrorCategory]] = []
        self.deliveries: list[float] = []

    def webhook_lag(self, seconds: float) -> None:
        self.lags.append(seconds)

    def message_final(self, outcome: FinalOutcome, category: ErrorCategory) -> None:
        self.final.append((outcome, category))

    def message_delivered(self, seconds: float) -> None:
        self.deliveries.append(seconds)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def news(told: Any) -> News:
    return News(told)


def update(kind: UpdateKind, at: datetime = NOON - timedelta(seconds=3)) -> Update:
    return Update(
        key="00" * 16,
        kind=kind,
        field="messages",
        waba_id="1",
        occurred_at=at,
        received_at=NOON,
        raw={},
    )


def status(name: str, error_code: int | None = None) -> StatusRecord:
    return StatusRecord(
        phone_number_id="2",
        wa_message_id="wamid.1",
        status=name,
        error_code=error_code,
        occurred_at=NOON,
    )


@pytest.mark.parametrize("kind", [UpdateKind.MESSAGE, UpdateKind.STATUS])
def test_what_meta_sends_at_once_has_a_lag(news: News, told: Told, kind: UpdateKind) -> None:
    news.tell(update(kind), None)

    assert told.lags == [3.0]


@pytest.mark.parametrize("kind", [UpdateKind.HISTORY, UpdateKind.MESSAGE_ECHO, UpdateKind.ACCOUNT])
def test_what_may_be_old_when_it_comes_has_no_lag(news: News, told: Told, kind: UpdateKind) -> None:
    news.tell(update(kind), None)

    assert told.lags == []


def test_what_has_no_time_has_no_lag(news: News, told: Told) -> None:
    news.tell(update(UpdateKind.MESSAGE, EPOCH), None)

    assert told.lags == []


@pytest.mark.parametrize(
    "outcome", [FinalOutcome.DELIVERED, FinalOutcome.READ, FinalOutcome.PLAYED]
)
def test_how_far_a_message_came_is_told(news: News, told: Told, outcome: FinalOutcome) -> None:
    news.tell(update(UpdateKind.STATUS), status(outcome.value))

    assert [each for each, _ in told.final] == [outcome]


@pytest.mark.parametrize("name", ["sent", "deleted", "warning", "something new"])
def test_what_ends_nothing_is_not_told(news: News, told: Told, name: str) -> None:
    news.tell(update(UpdateKind.STATUS), status(name))

    assert told.final == []


@pytest.mark.parametrize(
    ("code", "category"),
    [
        (131047, ErrorCategory.SEND_MESSAGE),
        (130429, ErrorCategory.THROTTLING),
        (9_999_999, ErrorCategory.UNKNOWN),
        (None, ErrorCategory.UNKNOWN),
    ],
)
def test_a_failure_is_told_with_its_category(
    news: News, told: Told, code: int | None, category: ErrorCategory
) -> None:
    news.tell(update(UpdateKind.STATUS), status("failed", code))

    assert told.final == [(FinalOutcome.FAILED, category)]


def test_a_delivery_took_from_the_sending_to_metas_time_of_it(news: News, told: Told) -> None:
    news.tell(update(UpdateKind.STATUS), status("delivered"), NOON - timedelta(seconds=5))

    assert told.deliveries == [5.0]


def test_nothing_is_told_where_nobody_sees_it(news: News, told: Told) -> None:
    told.wants_news = False

    news.tell(update(UpdateKind.STATUS), status("delivered"), NOON)

    assert (told.lags, told.final, told.deliveries) == ([], [], [])
