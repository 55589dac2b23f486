from collections.abc import Callable
from typing import Any

import pytest

from wats.config import parse_config
from wats.config.parse import webhook_collides
from wats.errors import ConfigError
from wats.store.records import OUTBOX

Put = Callable[[str, object], dict[str, Any]]


def refusals(put: Put, *sections: object) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse_config(put("pullers", list(sections)))
    return [
        (issue.code, issue.path.removeprefix("$.profiles.local.")) for issue in caught.value.issues
    ]


def test_a_puller_has_defaults(put: Put) -> None:
    (batch,) = parse_config(put("pullers", [{"name": "batch"}])).profiles["local"].pullers

    assert (batch.kinds, batch.numbers) == ((), ())
    assert (batch.lease_seconds, batch.max_attempts) == (60.0, None)


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "crm15551234567"}, "name"),
        ({"kinds": ["messages"]}, "kinds[0]"),
        ({"numbers": ["+15551234567"]}, "numbers[0]"),
        ({"numbers": ["berlin"]}, "numbers[0]"),
        ({"leaseSeconds": 0}, "leaseSeconds"),
        ({"leaseSeconds": 3601}, "leaseSeconds"),
        ({"maxAttempts": 0}, "maxAttempts"),
    ],
)
def test_an_invalid_puller_is_refused_by_its_path(
    put: Put, keys: dict[str, Any], path: str
) -> None:
    assert refusals(put, {"name": "batch", **keys}) == [("invalid_pullers", f"pullers[0].{path}")]


def test_a_wrong_kind_gets_the_kinds_and_the_nearest_one(put: Put) -> None:
    kinds = ["messages", "statuses", "canary-value", 7]

    with pytest.raises(ConfigError) as raised:
        parse_config(put("pullers", [{"name": "batch", "kinds": kinds}]))

    reasons = [issue.reason for issue in raised.value.issues]
    assert all(
        each.startswith("Must be the kind of an update: 'message', 'status',") for each in reasons
    )
    assert [each.partition("'handover'. ")[2] for each in reasons] == [
        "Did you mean 'message'?",
        "Did you mean 'status'?",
        "",
        "",
    ]
    assert "canary" not in str(raised.value)


def test_two_consumers_of_the_config_cannot_share_a_name(put: Put) -> None:
    found = refusals(put, {"name": "batch"}, {"name": "other"}, {"name": "batch"})

    assert found == [("invalid_pullers", "pullers[2].name")]


def test_the_name_of_the_outbox_is_reserved(put: Put) -> None:
    assert refusals(put, {"name": OUTBOX}) == [("invalid_pullers", "pullers[0].name")]


def test_a_webhook_cannot_hide_the_updates() -> None:
    assert webhook_collides("/api/updates", "/api")
    assert webhook_collides("/api/updates/ack", "/api")
