from datetime import UTC, datetime
from typing import Any

from wats.inbound.update_log import UpdateLog
from wats.inbound.updates import Update
from wats.privacy import Secret
from wats.telemetry.contract.values import UpdateKind

AT = datetime(2026, 11, 22, tzinfo=UTC)


def update(key: str) -> Update:
    return Update(
        key=key,
        kind=UpdateKind.MESSAGE,
        field="messages",
        waba_id="1",
        occurred_at=AT,
        received_at=AT,
        raw={"id": "wamid.A", "from": "15550001234"},
    )


def logged(key: str, app: str = "an-app") -> dict[str, Any]:
    lines: list[Any] = []
    UpdateLog(lines.append, Secret(app)).record(update(key), "accepted")
    (line,) = lines
    return dict(line)


def test_a_line_has_the_kind_the_outcome_and_a_hash_alone() -> None:
    line = logged("a" * 32)

    hashed = line.pop("updateId")
    assert len(bytes.fromhex(hashed)) == 6
    assert line == {"event": "wats.webhook.update", "kind": "message", "outcome": "accepted"}


def test_the_hash_identifies_an_update_and_depends_on_the_secret() -> None:
    again, other, of_another_app = (
        logged("a" * 32),
        logged("b" * 32),
        logged("a" * 32, "another-app"),
    )

    assert again == logged("a" * 32)
    assert len({each["updateId"] for each in (again, other, of_another_app)}) == 3
