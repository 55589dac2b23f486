"""The numbers of a profile, and the tokens of its clients."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.settings import config_of
from wats.config import parse_config, redact, resolve_secrets
from wats.config.fields import MAX_NUMBERS, MAX_TOKENS
from wats.errors import ConfigError
from wats.privacy import REDACTED, Secret
from wats.testing import BEARER_TOKEN, example_secrets

Put = Callable[[str, object], dict[str, Any]]

BERLIN = {"name": "berlin", "phoneNumberId": "109876543210988", "wabaId": "1"}
PARIS = {
    "name": "paris",
    "phoneNumberId": "109876543210989",
    "wabaId": "2",
    "accessToken": {"env": "PARIS"},
    "throughput": 80,
}
CRM = {"name": "crm", "token": {"env": "CRM"}, "scopes": "messages:read", "numbers": "berlin"}
CRM_TOKEN = "a-token-of-the-crm-for-tests"
VARIABLES = {
    "WATS_ACCESS_TOKEN": "access",
    "WATS_VERIFY_TOKEN": "verify",
    "WATS_APP_SECRET": "secret",
    "WATS_SERVICE_BEARER_TOKEN": BEARER_TOKEN,
    "PARIS": "access-of-paris",
    "CRM": CRM_TOKEN,
}


def issues_of(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse_config(document)
    root = "$.profiles.local."
    return [(issue.code, issue.path.removeprefix(root)) for issue in caught.value.issues]


def test_all_numbers_begin_with_the_default_number(put: Put) -> None:
    put("whatsapp.throughput", 20)
    profile = parse_config(put("numbers", [BERLIN, PARIS])).profiles["local"]

    shown = [(each.name, each.throughput) for each in profile.all_numbers]
    assert shown == [("default", 20), ("berlin", None), ("paris", 80)]
    assert profile.all_numbers[0].phone_number_id == profile.whatsapp.phone_number_id


def test_lists_of_numbers_have_names_or_ids(put: Put, document: dict[str, Any]) -> None:
    default_id = document["profiles"]["local"]["whatsapp"]["phoneNumberId"]
    crm = {"name": "crm", "url": "https://crm.example", "secret": {"env": "CRM"}}
    ids = [default_id, BERLIN["phoneNumberId"], "paris"]
    put("numbers", [BERLIN, PARIS])
    put("service.tokens", [{**CRM, "numbers": int(BERLIN["phoneNumberId"])}])
    put("pullers", [{"name": "batch", "numbers": default_id}])
    profile = parse_config(put("subscribers", [{**crm, "numbers": ids}])).profiles["local"]

    assert profile.service.tokens[0].numbers == ("berlin",)
    assert profile.pullers[0].numbers == ("default",)
    assert profile.subscribers[0].numbers == ("default", "berlin", "paris")
    put("service.tokens", [{**CRM, "numbers": "109876543210900"}])
    assert issues_of(put("subscribers", [])) == [(TOKENS, "service.tokens[0].numbers[0]")]


def test_other_numbers_are_handled_by_default_and_stored_if_there_are_numbers(
    put: Put, document: dict[str, Any]
) -> None:
    assert parse_config(document).profiles["local"].other_numbers_policy == "handle"
    document = put("numbers", [BERLIN])
    assert parse_config(document).profiles["local"].other_numbers_policy == "store"
    for policy in ("handle", "store", "ignore", "refuse"):
        document = put("otherNumbers", policy)
        assert parse_config(document).profiles["local"].other_numbers_policy == policy


NUMBERS, TOKENS = "invalid_numbers", "invalid_tokens"
MISTAKES: list[tuple[str, object, list[tuple[str, str]]]] = [
    ("numbers", {}, [(NUMBERS, "numbers")]),
    ("numbers", [[]], [(NUMBERS, "numbers[0]")]),
    ("numbers", [BERLIN] * (MAX_NUMBERS + 1), [(NUMBERS, "numbers")]),
    ("numbers", [{**BERLIN, "name": "default"}], [(NUMBERS, "numbers[0].name")]),
    ("numbers", [{**BERLIN, "name": "15550001111"}], [(NUMBERS, "numbers[0].name")]),
    ("numbers", [BERLIN, {**PARIS, "name": "berlin"}], [(NUMBERS, "numbers[1].name")]),
    (
        "numbers",
        [BERLIN, {**BERLIN, "name": "again"}],
        [(NUMBERS, "numbers[1].phoneNumberId")],
    ),
    (
        "numbers",
        [{**BERLIN, "phoneNumberId": "15551234567"}],
        [(NUMBERS, "numbers[0].phoneNumberId")],
    ),
    ("numbers", [{**BERLIN, "throughput": 0}], [(NUMBERS, "numbers[0].throughput")]),
    ("numbers", [{"name": "a"}], [(NUMBERS, f"numbers[0].{key}") for key in list(BERLIN)[1:]]),
    ("numbers", [{**PARIS, "accessToken": "x"}], [("invalid_env_ref", "numbers[0].accessToken")]),
    ("otherNumbers", "drop", [(NUMBERS, "otherNumbers")]),
    ("service.tokens", [CRM] * (MAX_TOKENS + 1), [(TOKENS, "service.tokens")]),
    ("service.tokens", [CRM], [(TOKENS, "service.tokens[0].numbers[0]")]),
    (
        "service.tokens",
        [{**CRM, "numbers": "default"}] * 2,
        [(TOKENS, "service.tokens[1].name")],
    ),
    (
        "service.tokens",
        [{**CRM, "numbers": "default", "scopes": ["messages:read", "sms"]}],
        [(TOKENS, "service.tokens[0].scopes[1]")],
    ),
    (
        "service.tokens",
        [{**CRM, "numbers": "default", "scopes": []}],
        [(TOKENS, "service.tokens[0].scopes")],
    ),
    *(
        (
            "service.tokens",
            [{**CRM, "numbers": "default", "scopes": ["media:read", scope]}],
            [(TOKENS, "service.tokens[0].numbers")],
        )
        for scope in ("admin", "telemetry")
    ),
    (
        "subscribers",
        [{"name": "a", "url": "https://a.example", "secret": {"env": "A"}, "numbers": ["rome"]}],
        [("invalid_subscribers", "subscribers[0].numbers[0]")],
    ),
]


def test_a_mistake_in_numbers_or_tokens_is_refused_at_its_place(
    subtests: pytest.Subtests,
) -> None:
    for key, value, issues in MISTAKES:
        document = config_of()
        section = document["profiles"]["local"]
        if "." in key:
            section["service"]["tokens"] = value
        else:
            section[key] = value
        with subtests.test(issues=issues):
            assert issues_of(document) == issues


def test_an_empty_list_is_not_taken_for_everything(put: Put) -> None:
    put("service.tokens", [{**CRM, "numbers": []}])
    put("pullers", [{"name": "batch", "kinds": [], "numbers": []}])
    endpoint = {"name": "a", "url": "https://a.example", "secret": {"env": "A"}}

    issues = issues_of(put("subscribers", [{**endpoint, "kinds": [], "numbers": []}]))

    assert issues == [
        (TOKENS, "service.tokens[0].numbers"),
        ("invalid_subscribers", "subscribers[0].kinds"),
        ("invalid_subscribers", "subscribers[0].numbers"),
        ("invalid_pullers", "pullers[0].kinds"),
        ("invalid_pullers", "pullers[0].numbers"),
    ]


def test_the_secrets_of_numbers_and_tokens_are_read_by_name(put: Put, tmp_path: Path) -> None:
    put("numbers", [BERLIN, PARIS])
    profile = parse_config(put("service.tokens", [CRM])).profiles["local"]

    secrets = resolve_secrets(profile, VARIABLES, tmp_path)

    assert {name: each.reveal() for name, each in secrets.access_tokens.items()} == {
        "paris": "access-of-paris"
    }
    assert [each.reveal() for each in secrets.api_tokens["crm"]] == [CRM_TOKEN]
    missing = {name: VARIABLES[name] for name in list(VARIABLES)[:4]}
    with pytest.raises(ConfigError) as caught:
        resolve_secrets(profile, missing, tmp_path)
    assert {(issue.code, issue.path) for issue in caught.value.issues} == {
        ("missing_secret", "$.profiles.local.numbers[1].accessToken"),
        ("missing_secret", "$.profiles.local.service.tokens[0].token"),
    }


def test_a_token_must_differ_from_every_other_token() -> None:
    crm, twin = Secret(CRM_TOKEN), Secret(CRM_TOKEN)
    for tokens in ({"a": (Secret(BEARER_TOKEN),)}, {"a": (crm,), "b": (twin,)}):
        with pytest.raises(ConfigError) as caught:
            example_secrets(api_tokens=tokens)
        assert [issue.code for issue in caught.value.issues] == ["invalid_secret"]
        assert CRM_TOKEN not in str(caught.value)


def test_a_redacted_profile_shows_names_and_no_ids(put: Put) -> None:
    put("numbers", [BERLIN, PARIS])
    put("otherNumbers", "ignore")
    shown = redact(parse_config(put("service.tokens", [CRM])).profiles["local"])

    assert shown["numbers"] == [
        {"name": "berlin", "phoneNumberId": REDACTED, "wabaId": REDACTED},
        {
            "name": "paris",
            "phoneNumberId": REDACTED,
            "wabaId": REDACTED,
            "accessToken": {"env": REDACTED},
            "throughput": 80,
        },
    ]
    assert shown["otherNumbers"] == "ignore"
    assert shown["service"]["tokens"] == [
        {
            "name": "crm",
            "token": {"env": REDACTED},
            "scopes": ["messages:read"],
            "numbers": ["berlin"],
        }
    ]
