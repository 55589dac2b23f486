import json
from collections.abc import Callable
from typing import Any

from wats.config import parse_config, redact

Put = Callable[[str, object], dict[str, Any]]


def test_a_redacted_profile_has_the_shape_of_the_file_without_ids_and_places(
    document: dict[str, Any],
) -> None:
    shown = redact(parse_config(document).profiles["local"])

    assert shown == {
        "graph": {"apiVersion": "v25.0", "baseUrl": "https://graph.facebook.com"},
        "whatsapp": {"wabaId": "[REDACTED]", "phoneNumberId": "[REDACTED]"},
        "auth": {"accessToken": {"env": "[REDACTED]"}},
        "webhook": {
            "path": "/webhooks/whatsapp",
            "maxBodyBytes": 3_145_728,
            "verifyToken": {"env": "[REDACTED]"},
            "appSecret": {"env": "[REDACTED]"},
        },
        "service": {
            "host": "127.0.0.1",
            "port": 8787,
            "apiPrefix": "/api",
            "workers": 1,
            "bearerToken": {"env": "[REDACTED]"},
        },
        "persistence": {"url": "[REDACTED]"},
        "groups": {"enabled": False},
        "telemetry": {"families": "contract"},
        "handlers": [],
        "inbox": {
            "concurrency": 64,
            "handlerTimeoutSeconds": 30.0,
            "maxAttempts": 10,
            "leaseSeconds": 30.0,
            "retentionDays": 8.0,
            "deadRetentionDays": 30.0,
        },
        "messages": {"retentionDays": 90, "idempotencyHours": 24},
    }


def test_a_redacted_profile_keeps_the_order_of_the_file(document: dict[str, Any]) -> None:
    given = document["profiles"]["local"]

    shown = redact(parse_config(document).profiles["local"])

    assert [section for section in shown if section in given] == list(given)
    for section, keys in given.items():
        assert [key for key in shown[section] if key in keys] == list(keys)


def test_a_redacted_profile_shows_lists_and_disabled_sections(put: Put) -> None:
    put("persistence", "none")
    put("handlers", ["a:b"])
    put("telemetry.bearerToken", {"env": "PLACE_A"})
    document = put("service.bearerToken", [{"env": "PLACE_B"}, {"file": "place-c"}])

    shown = redact(parse_config(document).profiles["local"])

    assert shown["persistence"] == "none"
    assert shown["handlers"] == ["a:b"]
    assert shown["telemetry"]["bearerToken"] == {"env": "[REDACTED]"}
    assert shown["service"]["bearerToken"] == [{"env": "[REDACTED]"}, {"file": "[REDACTED]"}]
    assert "place" not in json.dumps(shown).lower()
