from datetime import UTC, datetime, timedelta

import pytest

from wats.clock import EPOCH
from wats.inbound.update_metrics import UpdateMetrics
from wats.inbound.updates import Update
from wats.store.records import StatusRecord
from wats.telemetry import OPERATOR_ATTR, UNMATCHED, FamilySet, RouteLabel, Telemetry
from wats.telemetry.contract.families import MESSAGE_DELIVERY, MESSAGES_FINAL, WEBHOOK_LAG
from wats.telemetry.contract.values import ErrorCategory, FinalOutcome, UpdateKind
from wats.testing import CapturingTelemetrySink

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Recorder:
    """Telemetry with a sink, and the numbers that the sink received."""

    def __init__(self) -> None:
        self.sink = CapturingTelemetrySink()
        self.telemetry = Telemetry(
            routes=[RouteLabel(UNMATCHED)],
            adapter=None,
            sink=self.sink,
            families=FamilySet.OPERATOR,
        )

    @property
    def lags(self) -> list[float]:
        return [each.value for each in self.sink.histograms if each.name == WEBHOOK_LAG.name]

    @property
    def deliveries(self) -> list[float]:
        return [each.value for each in self.sink.histograms if each.name == MESSAGE_DELIVERY.name]

    @property
    def final(self) -> list[tuple[object, object]]:
        return [
            (
                each.attributes[OPERATOR_ATTR.DELIVERY_OUTCOME],
                each.attributes[OPERATOR_ATTR.ERROR_CATEGORY],
            )
            for each in self.sink.counters
            if each.name == MESSAGES_FINAL.name
        ]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def metrics(recorder: Recorder) -> UpdateMetrics:
    return UpdateMetrics(recorder.telemetry)


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
def test_an_update_that_meta_sends_immediately_has_a_lag(
    metrics: UpdateMetrics, recorder: Recorder, kind: UpdateKind
) -> None:
    metrics.report(update(kind), None)

    assert recorder.lags == [3.0]


@pytest.mark.parametrize("kind", [UpdateKind.HISTORY, UpdateKind.MESSAGE_ECHO, UpdateKind.ACCOUNT])
def test_an_update_that_may_be_old_on_arrival_has_no_lag(
    metrics: UpdateMetrics, recorder: Recorder, kind: UpdateKind
) -> None:
    metrics.report(update(kind), None)

    assert recorder.lags == []


def test_an_update_without_a_time_has_no_lag(metrics: UpdateMetrics, recorder: Recorder) -> None:
    metrics.report(update(UpdateKind.MESSAGE, EPOCH), None)

    assert recorder.lags == []


@pytest.mark.parametrize(
    "outcome", [FinalOutcome.DELIVERED, FinalOutcome.READ, FinalOutcome.PLAYED]
)
def test_a_final_status_is_counted(
    metrics: UpdateMetrics, recorder: Recorder, outcome: FinalOutcome
) -> None:
    metrics.report(update(UpdateKind.STATUS), status(outcome.value))

    assert [each for each, _ in recorder.final] == [outcome]


@pytest.mark.parametrize("name", ["sent", "deleted", "warning", "something new"])
def test_a_status_that_is_not_final_is_not_counted(
    metrics: UpdateMetrics, recorder: Recorder, name: str
) -> None:
    metrics.report(update(UpdateKind.STATUS), status(name))

    assert recorder.final == []


@pytest.mark.parametrize(
    ("code", "category"),
    [
        (131047, ErrorCategory.SEND_MESSAGE),
        (130429, ErrorCategory.THROTTLING),
        (9_999_999, ErrorCategory.UNKNOWN),
        (None, ErrorCategory.UNKNOWN),
    ],
)
def test_a_failure_is_counted_with_its_category(
    metrics: UpdateMetrics, recorder: Recorder, code: int | None, category: ErrorCategory
) -> None:
    metrics.report(update(UpdateKind.STATUS), status("failed", code))

    assert recorder.final == [(FinalOutcome.FAILED, category)]


def test_delivery_time_runs_from_the_send_to_the_time_of_the_status(
    metrics: UpdateMetrics, recorder: Recorder
) -> None:
    metrics.report(update(UpdateKind.STATUS), status("delivered"), NOON - timedelta(seconds=5))

    assert recorder.deliveries == [5.0]
