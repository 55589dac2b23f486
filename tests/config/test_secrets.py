from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wats.config import (
    Secrets,
    database_of,
    parse_config,
    resolve_client_secrets,
    resolve_secrets,
)
from wats.config.secrets import MAX_SECRET_FILE_BYTES
from wats.errors import ConfigError
from wats.privacy import Secret
from wats.testing import example_secrets

GOOD = Secret("not-a-weak-token")


@pytest.mark.parametrize(
    "weak", ["fifteen-letters", "ababababababababab", "two words and more", ""]
)
@pytest.mark.parametrize("field", ["bearer_tokens", "telemetry_tokens"])
def test_weak_tokens_are_refused_in_code_as_they_are_in_a_file(field: str, weak: str) -> None:
    with pytest.raises(ConfigError) as caught:
        example_secrets(**{field: (GOOD, Secret(weak))})

    (issue,) = caught.value.issues
    assert (issue.code, issue.path) == ("invalid_secret", f"secrets.{field}[1]")
    assert "'wats token'" in issue.reason
    assert not weak or weak not in str(caught.value)


def test_all_unusable_secrets_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        example_secrets(
            access_token=Secret("a\r\nb"),
            verify_token=Secret(" "),
            app_secrets=(Secret(""),),
            bearer_tokens=(Secret("short"),),
        )

    assert [issue.path for issue in caught.value.issues] == [
        "secrets.access_token",
        "secrets.verify_token",
        "secrets.app_secrets[0]",
        "secrets.bearer_tokens[0]",
    ]


def test_a_token_cannot_be_weakened_afterwards() -> None:
    secrets = example_secrets()

    with pytest.raises(ConfigError):
        replace(secrets, bearer_tokens=(Secret("short"),))


Put = Callable[[str, object], dict[str, Any]]


def resolve(document: object, environ: dict[str, str], folder: Path = Path()) -> Secrets:
    return resolve_secrets(parse_config(document).profiles["local"], environ, folder)


def refuse(document: object, environ: dict[str, str], folder: Path = Path()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(document, environ, folder)
    return [str(issue) for issue in caught.value.issues]


def test_secrets_are_read_from_the_variables_that_the_file_names(
    document: dict[str, Any], environ: dict[str, str]
) -> None:
    assert resolve(document, environ) == Secrets(
        access_token=Secret("access"),
        verify_token=Secret("verify me"),
        app_secrets=(Secret("app"),),
        bearer_tokens=(Secret("a-service-token-for-tests"),),
        telemetry_tokens=(),
    )


def test_every_value_of_a_list_is_kept_in_its_order(put: Put, environ: dict[str, str]) -> None:
    put("telemetry.bearerToken", [{"env": "NEW"}, {"env": "OLD"}])
    document = put("webhook.appSecret", [{"env": "OLD"}, {"env": "NEW"}])

    secrets = resolve(document, {**environ, "NEW": "the-new-token-456", "OLD": "the-old-token-123"})

    assert secrets.app_secrets == (Secret("the-old-token-123"), Secret("the-new-token-456"))
    assert secrets.telemetry_tokens == (Secret("the-new-token-456"), Secret("the-old-token-123"))


@pytest.mark.parametrize("content", [b"token", b"token\n", b"token\r\n", b"\xef\xbb\xbftoken\n"])
def test_a_secret_file_is_found_next_to_the_config_file_and_loses_its_last_line_break(
    put: Put, environ: dict[str, str], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "token").write_bytes(content)

    secrets = resolve(put("auth.accessToken", {"file": "token"}), environ, tmp_path)

    assert secrets.access_token == Secret("token")


def test_a_secret_file_may_have_an_absolute_path(
    put: Put, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("token")

    secrets = resolve(put("auth.accessToken", {"file": str(tmp_path / "token")}), environ)

    assert secrets.access_token == Secret("token")


def test_every_missing_secret_is_reported_by_its_variable(document: dict[str, Any]) -> None:
    issues = refuse(document, {"WATS_VERIFY_TOKEN": " "})

    assert issues[0] == (
        "$.profiles.local.auth.accessToken: "
        "The environment variable 'WATS_ACCESS_TOKEN' is not set or blank. (missing_secret)"
    )
    assert [issue.split(": ")[0].removeprefix("$.profiles.local.") for issue in issues] == [
        "auth.accessToken",
        "webhook.verifyToken",
        "webhook.appSecret",
        "service.bearerToken",
    ]


def test_a_missing_secret_of_a_list_is_reported_by_its_index(
    put: Put, environ: dict[str, str]
) -> None:
    document = put("webhook.appSecret", [{"env": "WATS_APP_SECRET"}, {"env": "GONE"}])

    (issue,) = refuse(document, environ)

    assert issue.startswith("$.profiles.local.webhook.appSecret[1]: ")


@pytest.mark.parametrize("name", ["EAAGm0PX4ZCpsBAKZ", "e3b0c44298fc1c149afbf4c8996fb924"])
def test_a_token_given_as_the_name_of_a_variable_is_not_shown(
    put: Put, environ: dict[str, str], name: str
) -> None:
    (issue,) = refuse(put("auth.accessToken", {"env": name}), environ)

    assert name not in issue


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WATS_ACCESS_TOKEN", "a" * 4097),
        ("WATS_ACCESS_TOKEN", "two words"),
        ("WATS_ACCESS_TOKEN", "word\n"),
        ("WATS_ACCESS_TOKEN", "wörd"),
        ("WATS_APP_SECRET", "wo\x00rd"),
        ("WATS_SERVICE_BEARER_TOKEN", "wörd"),
        ("WATS_VERIFY_TOKEN", "v" * 513),
        ("WATS_VERIFY_TOKEN", "wo\trd"),
        ("WATS_VERIFY_TOKEN", "wo\udcffrd"),
    ],
)
def test_a_secret_that_cannot_be_used_is_refused_unseen(
    document: dict[str, Any], environ: dict[str, str], variable: str, value: str
) -> None:
    (issue,) = refuse(document, {**environ, variable: value})

    assert issue.endswith(" (invalid_secret)")
    assert variable in issue
    assert value not in issue


@pytest.mark.parametrize("variable", ["WATS_ACCESS_TOKEN", "WATS_SERVICE_BEARER_TOKEN"])
def test_a_line_break_in_a_variable_is_named_as_a_cause(
    document: dict[str, Any], environ: dict[str, str], variable: str
) -> None:
    (issue,) = refuse(document, {**environ, variable: f"{environ[variable]}\n"})

    assert "line breaks" in issue


def test_every_weak_token_is_reported_with_all_other_mistakes(
    put: Put, environ: dict[str, str]
) -> None:
    put("auth.accessToken", {"env": "GONE"})
    put("telemetry.bearerToken", [{"env": "GOOD"}, {"env": "SHORT"}])
    document = put("service.bearerToken", [{"env": "DULL"}, {"env": "SHORT"}, {"env": "GOOD"}])
    tokens = {"GOOD": "not-a-weak-token", "SHORT": "0123456789abcde", "DULL": "abcdefg" * 9}

    issues = refuse(document, {**environ, **tokens})

    weak = ["service.bearerToken[0]", "service.bearerToken[1]", "telemetry.bearerToken[1]"]
    paths = [issue.split(": ")[0].removeprefix("$.profiles.local.") for issue in issues]
    assert paths == ["auth.accessToken", *weak]
    assert all("'wats token'" in issue for issue in issues[1:])
    assert not [token for token in tokens.values() if token in "".join(issues)]


def test_a_verify_token_may_be_short(document: dict[str, Any], environ: dict[str, str]) -> None:
    short = {"WATS_VERIFY_TOKEN": "a", "WATS_APP_SECRET": "b", "WATS_ACCESS_TOKEN": "c"}

    assert resolve(document, {**environ, **short}).verify_token == Secret("a")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "file_read_error"),
        (b"a" * (MAX_SECRET_FILE_BYTES + 1), "file_read_error"),
        (b"\xff", "parse_error"),
        (b"", "missing_secret"),
        (b" \n", "missing_secret"),
        (b"two\nlines\n", "invalid_secret"),
        (b"word\n\n", "invalid_secret"),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_refused_without_its_name(
    put: Put, environ: dict[str, str], tmp_path: Path, content: bytes | None, code: str
) -> None:
    if content is not None:
        (tmp_path / "hidden-name").write_bytes(content)

    (issue,) = refuse(put("auth.accessToken", {"file": "hidden-name"}), environ, tmp_path)

    assert issue.startswith("$.profiles.local.auth.accessToken: ")
    assert issue.endswith(f" ({code})")
    assert "hidden-name" not in issue


def test_a_secret_file_without_content_is_reported_as_blank(
    put: Put, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "token").write_bytes(b"\n")

    issues = refuse(put("auth.accessToken", {"file": "token"}), environ, tmp_path)

    path = "$.profiles.local.auth.accessToken"
    assert issues == [f"{path}: The secret file is blank. (missing_secret)"]


def test_the_url_of_the_database_may_be_read_from_a_variable(
    put: Put, environ: dict[str, str]
) -> None:
    url = "postgresql://wats:hunter2@db.example/wats"
    document = put("persistence.url", {"env": "DATABASE_URL"})

    secrets = resolve(document, {**environ, "DATABASE_URL": url})

    profile = parse_config(document).profiles["local"]
    assert database_of(profile, secrets) == (url, None)
    assert "hunter2" not in repr((profile, secrets))
    (issue,) = refuse(document, {**environ, "DATABASE_URL": "mysql://wats:hunter2@db/wats"})
    assert "hunter2" not in issue
    assert "persistence.url" in issue


def test_the_password_of_the_database_may_be_read_from_a_file(
    put: Put, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    put("persistence.url", "postgresql://wats@db.example/wats")
    document = put("persistence.password", {"file": "password"})

    secrets = resolve(document, environ, tmp_path)

    profile = parse_config(document).profiles["local"]
    assert database_of(profile, secrets) == ("postgresql://wats@db.example/wats", "hunter2")


def test_clients_without_secrets_have_none_and_need_none(put: Put, tmp_path: Path) -> None:
    put("subscribers", [{"name": "crm", "url": "https://crm.example/", "secret": {"env": "CRM"}}])
    tokens = [
        {"name": "shop", "token": [{"env": "SHOP"}, {"env": "NEXT"}], "scopes": ["messages:read"]},
        {"name": "till", "token": {"file": "till"}, "scopes": ["messages:read"]},
    ]
    profile = parse_config(put("service.tokens", tokens)).profiles["local"]

    found = resolve_client_secrets(profile, {"SHOP": GOOD.reveal()}, tmp_path)

    assert found.subscribers == {"crm": ()}
    assert {name: len(each) for name, each in found.api_tokens.items()} == {"shop": 1, "till": 0}


def test_an_invalid_secret_of_a_client_is_reported(put: Put) -> None:
    crm = {"name": "crm", "url": "https://crm.example/", "secret": {"env": "CRM"}}
    profile = parse_config(put("subscribers", [crm])).profiles["local"]

    with pytest.raises(ConfigError) as caught:
        resolve_client_secrets(profile, {"CRM": "not-a-key-of-webhooks"}, Path())

    (issue,) = caught.value.issues
    assert issue.path == "$.profiles.local.subscribers[0].secret"
