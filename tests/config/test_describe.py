import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wats.config import config_keys, markdown_table, parse_config, redact
from wats.config.fields import FILE, PROFILE, Section
from wats.config.files import read_document

Put = Callable[[str, object], dict[str, Any]]


def test_a_redacted_profile_has_the_shape_of_the_file_without_ids_and_places(
    document: dict[str, Any],
) -> None:
    shown = redact(parse_config(document).profiles["local"])

    assert shown == {
        "graph": {
            "apiVersion": "v25.0",
            "baseUrl": "https://graph.facebook.com",
            "allowInsecureHttp": False,
            "appSecretProof": True,
            "connectSeconds": 5.0,
            "readSeconds": 20.0,
            "timeoutSeconds": 30.0,
            "maxConnections": 100,
        },
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
            "keepAliveSeconds": 620.0,
            "requestSeconds": 30.0,
            "drainSeconds": 0.0,
            "shutdownSeconds": 15.0,
            "bearerToken": {"env": "[REDACTED]"},
        },
        "persistence": {"url": "[REDACTED]", "timeoutSeconds": 5.0},
        "groups": {"enabled": False},
        "telemetry": {"families": "contract"},
        "handlers": [],
        "numbers": [],
        "subscribers": [],
        "pullers": [],
        "inbox": {
            "concurrency": 128,
            "handlerTimeoutSeconds": 30.0,
            "maxAttempts": 10,
            "leaseSeconds": 30.0,
            "retentionDays": 8.0,
            "deadRetentionDays": 30.0,
        },
        "messages": {
            "retentionDays": 90,
            "idempotencyHours": 24,
            "windowGuard": False,
            "throughput": 80,
        },
        "outbox": {
            "concurrency": 32,
            "maxAttempts": 10,
            "maxAgeHours": 24.0,
            "maxWaiting": 100_000,
        },
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


SOURCES = Path(__file__).parents[2] / "src/wats/config"
PAGE = (Path(__file__).parents[2] / "docs/configuration.md").read_text("utf-8")


def test_the_documented_keys_are_those_of_the_config() -> None:
    documented = PAGE.split("<!-- keys: begin -->\n")[1].split("\n<!-- keys: end -->")[0]

    assert documented == markdown_table(), "Run .venv/bin/python docs/generate.py."


@pytest.mark.parametrize("number", [0, 1])
def test_the_documented_files_can_be_used(tmp_path: Path, number: int) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(re.findall("```yaml\n(.*?)```", PAGE, flags=re.DOTALL)[number])

    assert parse_config(read_document(path)).default_profile == "production"


def test_every_code_is_documented() -> None:
    codes = {entry.code for entry in (*FILE, *PROFILE)}
    codes |= {key.code for entry in PROFILE if isinstance(entry, Section) for key in entry.keys}
    for path in SOURCES.glob("*.py"):
        codes |= set(re.findall(r'(?:_error|Issue|refuse)\(\s*"([a-z_]+)"', path.read_text()))

    assert {code for code in codes if f"`{code}`" not in PAGE} == set()


def test_keys_have_path_type_default_and_meaning() -> None:
    keys = {key.path: key for key in config_keys()}

    port = keys["profiles.NAME.service.port"]
    families = keys["profiles.NAME.telemetry.families"]
    assert (port.required, port.type) == (True, "a whole number from 1 to 65535")
    assert (families.required, families.default) == (False, "contract")
    assert all(key.meaning.endswith(".") for key in keys.values())
    assert len(keys) == len(config_keys())
