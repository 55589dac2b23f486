from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wats.config import parse_config, redact, resolve_secrets
from wats.config.subscribers import KINDS
from wats.errors import ConfigError
from wats.privacy import Secret
from wats.telemetry.contract.labels import TARGET_NAME
from wats.telemetry.contract.values import UpdateKind

Put = Callable[[str, object], dict[str, Any]]
SECRET = "whsec_c29tZS1yYW5kb20tYnl0ZXMtZm9yLXRlc3RzLW9ubHk="


def section(**keys: Any) -> dict[str, Any]:
    given = {"name": "crm", "url": "https://crm.example/hook", "secret": {"env": "CRM_SECRET"}}
    return {**given, **keys}


def refusals(put: Put, *sections: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(put("subscribers", list(sections)))
    return [issue.path.removeprefix("$.profiles.local.") for issue in caught.value.issues]


def test_a_subscriber_has_defaults(put: Put) -> None:
    (crm,) = parse_config(put("subscribers", [section()])).profiles["local"].subscribers

    assert (crm.format, crm.kinds, crm.concurrency) == ("update", (), 16)
    assert (crm.timeout_seconds, crm.allow_private_network) == (15.0, False)


@pytest.mark.parametrize("name", ["order-service", "crm_2", "Bot-v2"])
def test_a_name_is_a_word_as_of_a_service(put: Put, name: str) -> None:
    (found,) = parse_config(put("subscribers", [section(name=name)])).profiles["local"].subscribers

    assert found.name == name
    assert TARGET_NAME.fullmatch(name) is not None


def test_a_schedule_is_a_list_of_durations(put: Put) -> None:
    given = section(schedule=["5s", "5m", "2h", "7d", 30, 0.5])
    (crm,) = parse_config(put("subscribers", [given])).profiles["local"].subscribers

    assert crm.schedule == (5.0, 300.0, 7200.0, 604_800.0, 30.0, 0.5)


def test_requests_with_several_updates_are_for_the_format_of_meta(put: Put) -> None:
    given = section(format="meta", batch=1000)
    (crm,) = parse_config(put("subscribers", [given])).profiles["local"].subscribers

    assert crm.batch == 1000
    assert refusals(put, section(batch=2)) == ["subscribers[0].batch"]
    assert refusals(put, section(format="meta", batch=1001)) == ["subscribers[0].batch"]


def test_the_kinds_are_those_of_updates() -> None:
    assert list(KINDS) == list(UpdateKind)


@pytest.mark.parametrize(
    "url",
    [
        "http://crm.example/",
        "file:///etc/passwd",
        "gopher://crm.example/",
        "https://user:password@crm.example/",
        "https://crm.example/#part",
        "https://2130706433/",
        "https://017700000001/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https:///path",
        "https://[fe80::1%25lo]/",
        "https://crm.example\\@other.example/",
        "//crm.example/",
        7,
    ],
)
def test_a_url_that_is_not_plainly_https_is_refused(put: Put, url: object) -> None:
    assert refusals(put, section(url=url)) == ["subscribers[0].url"]


def test_http_is_for_private_networks(put: Put) -> None:
    local = section(url="http://crm:8080/hook?key=a", allowPrivateNetwork=True)

    (crm,) = parse_config(put("subscribers", [local])).profiles["local"].subscribers

    assert crm.url == "http://crm:8080/hook?key=a"


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "crm15551234567"}, "name"),
        ({"name": "crm-1555-123-4567"}, "name"),
        ({"name": "-crm"}, "name"),
        ({"format": "xml"}, "format"),
        ({"kinds": ["messages"]}, "kinds[0]"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeoutSeconds": 30}, "timeoutSeconds"),
        ({"secret": SECRET}, "secret"),
        ({"retries": 3}, "retries"),
        ({"schedule": ["5s", 0]}, "schedule[1]"),
        ({"schedule": ["5s", True]}, "schedule[1]"),
        ({"schedule": [604_801]}, "schedule[0]"),
        ({"schedule": ["0s"]}, "schedule[0]"),
        ({"schedule": ["1.5h"]}, "schedule[0]"),
        ({"schedule": ["8d"]}, "schedule[0]"),
        ({"schedule": ["1s"] * 101}, "schedule"),
    ],
)
def test_each_mistake_is_reported_with_its_path(put: Put, keys: dict[str, Any], path: str) -> None:
    assert refusals(put, section(**keys)) == [f"subscribers[0].{path}"]


@pytest.mark.parametrize("key", ["name", "url", "secret"])
def test_a_required_key_that_is_left_out_is_the_only_issue(put: Put, key: str) -> None:
    given = section()
    del given[key]

    assert refusals(put, given) == [f"subscribers[0].{key}"]


def test_names_are_unique(put: Put) -> None:
    assert refusals(put, section(), section()) == ["subscribers[1].name"]


@pytest.mark.parametrize("value", [{}, "crm", None])
def test_subscribers_are_a_list(put: Put, value: object) -> None:
    with pytest.raises(ConfigError, match="subscribers"):
        parse_config(put("subscribers", value))


def test_an_item_that_is_not_a_section_is_refused(put: Put) -> None:
    assert refusals(put, "crm", section()) == ["subscribers[0]"]


def test_urls_and_sources_of_secrets_are_redacted(put: Put) -> None:
    profile = parse_config(put("subscribers", [section()])).profiles["local"]

    (shown,) = redact(profile)["subscribers"]

    assert (shown["name"], shown["url"]) == ("crm", "[REDACTED]")
    assert shown["secret"] == {"env": "[REDACTED]"}


def test_the_secrets_of_a_subscriber_are_read(
    put: Put, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "new").write_text(SECRET + "\n")
    sources = [{"env": "CRM_SECRET"}, {"file": "new"}]
    profile = parse_config(put("subscribers", [section(secret=sources)])).profiles["local"]

    secrets = resolve_secrets(profile, {**environ, "CRM_SECRET": SECRET}, tmp_path)

    assert secrets.subscribers == {"crm": (Secret(SECRET), Secret(SECRET))}


@pytest.mark.parametrize("value", ["", "a-plain-secret-for-tests", "whsec_c2hvcnQ=", "whsec_!"])
def test_a_secret_of_another_form_is_named_and_not_shown(
    put: Put, environ: dict[str, str], tmp_path: Path, value: str
) -> None:
    profile = parse_config(put("subscribers", [section()])).profiles["local"]

    with pytest.raises(ConfigError) as caught:
        resolve_secrets(profile, {**environ, "CRM_SECRET": value}, tmp_path)

    (issue,) = caught.value.issues
    assert issue.path == "$.profiles.local.subscribers[0].secret"
    assert not value or value not in str(issue)
