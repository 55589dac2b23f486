import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.config import (
    EnvRef,
    FileRef,
    InboxConfig,
    MessagesConfig,
    PersistenceConfig,
    TelemetryConfig,
    config_keys,
    parse_config,
)
from wats.config.fields import PROFILE, Section
from wats.config.parse import API_ROOTS, STATIC_PATHS, prefix_collides, webhook_collides
from wats.errors import ConfigError, ConfigIssue

Put = Callable[[str, object], dict[str, Any]]


def issues_of(document: object) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse_config(document)
    return [(issue.code, issue.path) for issue in caught.value.issues]


def test_an_omitted_key_has_its_default(document: dict[str, Any]) -> None:
    profile = parse_config(document).profiles["local"]

    assert profile.name == "local"
    assert profile.graph.api_version == "v25.0"
    assert profile.webhook.max_body_bytes == 3 * 1024 * 1024
    assert profile.service.public_url is None
    assert profile.persistence == PersistenceConfig(url="sqlite:///wats.db")
    assert not profile.groups.enabled
    assert profile.service.workers == 1
    assert profile.telemetry == TelemetryConfig(families="contract", sink=None)
    assert profile.handlers == ()
    assert profile.inbox == InboxConfig()
    assert profile.messages == MessagesConfig()
    assert profile.secrets.app_secrets == (EnvRef("WATS_APP_SECRET"),)
    assert profile.secrets.telemetry_tokens == ()


@pytest.mark.parametrize(
    ("path", "value", "attribute", "expected"),
    [
        ("whatsapp.phoneNumberId", 15551234567, "whatsapp.phone_number_id", "15551234567"),
        ("webhook.path", "/hook/", "webhook.path", "/hook/"),
        ("service.apiPrefix", "/api/", "service.api_prefix", "/api"),
        ("webhook.maxBodyBytes", 10_485_760, "webhook.max_body_bytes", 10_485_760),
        ("service.publicUrl", "https://a.example/", "service.public_url", "https://a.example"),
        ("persistence", "none", "persistence.url", None),
        ("persistence", {"url": "sqlite:///x"}, "persistence.url", "sqlite:///x"),
        ("persistence", {}, "persistence.url", "sqlite:///wats.db"),
        ("persistence.url", "postgresql://u@h:1/d", "persistence.url", "postgresql://u@h:1/d"),
        ("persistence.url", "postgres:///d?host=/s", "persistence.url", "postgres:///d?host=/s"),
        ("persistence.url", {"env": "A"}, "persistence.url", EnvRef("A")),
        ("persistence.password", {"file": "a"}, "secrets.database_password", (FileRef("a"),)),
        ("groups.enabled", True, "groups.enabled", True),
        ("service.workers", 64, "service.workers", 64),
        ("telemetry.families", "operator", "telemetry.families", "operator"),
        ("telemetry.sink", "a.b:make_sink", "telemetry.sink", "a.b:make_sink"),
        ("handlers", ["a.b:c", "d:e"], "handlers", ("a.b:c", "d:e")),
        ("handlers", "a.b:c", "handlers", ("a.b:c",)),
        ("handlers", [], "handlers", ()),
        ("inbox.handlerTimeoutSeconds", 5, "inbox.handler_timeout_seconds", 5.0),
        ("messages.idempotencyHours", 48, "messages.idempotency_hours", 48),
        ("messages.windowGuard", True, "messages.window_guard", True),
        ("auth.accessToken", {"file": "a/b"}, "secrets.access_token", (FileRef("a/b"),)),
        (
            "service.bearerToken",
            [{"env": "A"}, {"file": "b"}],
            "secrets.bearer_tokens",
            (EnvRef("A"), FileRef("b")),
        ),
        ("telemetry.bearerToken", {"env": "T"}, "secrets.telemetry_tokens", (EnvRef("T"),)),
    ],
)
def test_a_configured_value_is_kept(
    put: Put, path: str, value: object, attribute: str, expected: object
) -> None:
    found: object = parse_config(put(path, value)).profiles["local"]

    for name in attribute.split("."):
        found = getattr(found, name)

    assert found == expected


def test_subscribers_and_pullers_need_a_database(put: Put) -> None:
    secret = {"env": "CRM_SECRET"}
    put("subscribers", [{"name": "crm", "url": "https://crm.example", "secret": secret}])
    put("pullers", [{"name": "batch"}])

    issues = issues_of(put("persistence", "none"))

    assert issues == [
        ("invalid_subscribers", "$.profiles.local.subscribers"),
        ("invalid_pullers", "$.profiles.local.pullers"),
    ]


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("persistence", ["none", {"url": "sqlite:///x"}])
def test_the_window_guard_needs_a_database(put: Put, guarded: bool, persistence: object) -> None:
    document = put("messages.windowGuard", guarded)
    put("persistence", persistence)

    try:
        parse_config(document)
        found = []
    except ConfigError as error:
        found = [(issue.code, issue.path) for issue in error.issues]

    refused = [("invalid_messages", "$.profiles.local.messages.windowGuard")]
    assert found == (refused if guarded and persistence == "none" else [])


@pytest.mark.parametrize(
    ("url", "allowed", "is_accepted"),
    [
        ("http://graph:9900", None, False),
        ("http://graph:9900", False, False),
        ("http://graph:9900", True, True),
        ("http://127.0.0.1:9900", None, True),
        ("https://graph.facebook.com", True, True),
    ],
)
def test_plain_http_to_graph_leaves_this_machine_only_if_it_is_allowed(
    put: Put, url: str, allowed: bool | None, is_accepted: bool
) -> None:
    document = put("graph.baseUrl", url)
    if allowed is not None:
        put("graph.allowInsecureHttp", allowed)

    try:
        found: object = parse_config(document).profiles["local"].graph.base_url
    except ConfigError as error:
        found = [(issue.code, issue.path) for issue in error.issues]

    refused = [("invalid_base_url", "$.profiles.local.graph.baseUrl")]
    assert found == (url if is_accepted else refused)


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("graph", None, "invalid_graph"),
        ("graph.apiVersion", "25.0", "invalid_api_version"),
        ("graph.apiVersion", 25.0, "invalid_api_version"),
        ("graph.baseUrl", "http://graph.facebook.com", "invalid_base_url"),
        ("graph.baseUrl", "https://graph.facebook.com/v25.0", "invalid_base_url"),
        ("graph.baseUrl", "https://graph.facebook.com/v25.0/", "invalid_base_url"),
        ("graph.allowInsecureHttp", "yes", "invalid_base_url"),
        ("whatsapp", [], "invalid_whatsapp"),
        ("whatsapp.wabaId", "", "invalid_whatsapp"),
        ("whatsapp.phoneNumberId", "abc", "invalid_whatsapp"),
        ("auth", "EAAG", "invalid_auth"),
        ("auth.accessToken", "EAAG", "invalid_env_ref"),
        ("auth.accessToken", {"env": "A", "file": "b"}, "invalid_env_ref"),
        ("auth.accessToken", {"env": ""}, "invalid_env_ref"),
        ("auth.accessToken", {"env": "not a name"}, "invalid_env_ref"),
        ("auth.accessToken", {"file": " "}, "invalid_env_ref"),
        ("auth.accessToken", {"file": "a\x00b"}, "invalid_env_ref"),
        ("auth.accessToken", {}, "invalid_env_ref"),
        ("auth.accessToken", [{"env": "A"}], "invalid_env_ref"),
        ("webhook", 1, "invalid_webhook"),
        ("webhook.path", "/", "invalid_webhook_path"),
        ("webhook.path", "/api/messages/text", "invalid_path"),
        ("webhook.path", "/metrics", "invalid_path"),
        ("webhook.path", "/metrics/", "invalid_path"),
        ("webhook.path", "/api/", "invalid_path"),
        ("webhook.path", "/hook+", "invalid_webhook_path"),
        ("webhook.maxBodyBytes", 0, "invalid_max_body_bytes"),
        ("webhook.maxBodyBytes", 10_485_761, "invalid_max_body_bytes"),
        ("webhook.maxBodyBytes", True, "invalid_max_body_bytes"),
        ("webhook.appSecret", [], "invalid_env_ref"),
        ("service", "x", "invalid_service"),
        ("service.host", "", "invalid_service_host"),
        ("service.port", 0, "invalid_service_port"),
        ("service.port", "8787", "invalid_service_port"),
        ("service.apiPrefix", "api", "invalid_service_api_prefix"),
        ("service.apiPrefix", "/status", "invalid_path"),
        ("service.publicUrl", "example.org", "invalid_service_public_url"),
        ("service.bearerToken", [{"env": "A"}] * 33, "invalid_env_ref"),
        ("service.workers", 0, "invalid_service_workers"),
        ("service.workers", 65, "invalid_service_workers"),
        ("service.workers", True, "invalid_service_workers"),
        ("persistence", None, "invalid_persistence"),
        ("persistence", "sqlite:///wats.db", "invalid_persistence"),
        ("persistence.url", "none", "invalid_persistence"),
        ("persistence.url", "postgresql://u:hunter2@h/d", "invalid_persistence"),
        ("persistence.url", "postgresql://u@h/d?password=hunter2", "invalid_persistence"),
        ("persistence.url", {"env": "A", "file": "b"}, "invalid_persistence"),
        ("persistence.password", "hunter2", "invalid_env_ref"),
        ("groups.enabled", "yes", "invalid_groups"),
        ("telemetry.families", "all", "invalid_telemetry"),
        ("telemetry.sink", "no colon", "invalid_telemetry"),
        ("telemetry.sink", ["a:b"], "invalid_telemetry"),
        ("telemetry.bearerToken", "word", "invalid_env_ref"),
        ("handlers", "no colon", "invalid_handlers"),
        ("handlers", {"a": "b"}, "invalid_handlers"),
        ("inbox.concurrency", 0, "invalid_inbox"),
        ("inbox.leaseSeconds", "60", "invalid_inbox"),
        ("messages.retentionDays", 1.5, "invalid_messages"),
    ],
    ids=repr,
)
def test_an_invalid_value_is_refused_at_its_path(
    put: Put, path: str, value: object, code: str
) -> None:
    assert issues_of(put(path, value)) == [(code, f"$.profiles.local.{path}")]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("service.port", "8787", "Must be a whole number from 1 to 65535, without quotes."),
        ("service.port", "87870", "Must be a whole number from 1 to 65535."),
        ("service.drainSeconds", "5.0", "Must be a number from 0 to 3600, without quotes."),
        ("groups.enabled", "true", "Must be true or false, without quotes."),
        ("groups.enabled", "yes", "Must be true or false."),
        ("groups.enabled", "[" * 100_000, "Must be true or false."),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_number_or_truth_value_in_quotes_is_reported_as_such(
    put: Put, path: str, value: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(put(path, value))

    assert [issue.reason for issue in caught.value.issues] == [reason]


def test_an_item_of_a_list_is_refused_by_its_index(put: Put) -> None:
    put("webhook.appSecret", [{"env": "A"}, "inline"])

    assert issues_of(put("handlers", ["a:b", "c"])) == [
        ("invalid_env_ref", "$.profiles.local.webhook.appSecret[1]"),
        ("invalid_handlers", "$.profiles.local.handlers[1]"),
    ]


_LISTS = {"subscribers", "pullers", "numbers"}


@pytest.mark.parametrize(
    "path",
    [
        key.path
        for key in config_keys()
        if key.required and key.path.count(".") == 3 and key.path.split(".")[2] not in _LISTS
    ],
)
def test_a_required_key_that_is_left_out_is_the_only_issue(
    document: dict[str, Any], path: str
) -> None:
    _, _, section, key = path.split(".")
    del document["profiles"]["local"][section][key]

    assert [where for _, where in issues_of(document)] == [f"$.profiles.local.{section}.{key}"]


def test_the_mistakes_of_all_profiles_are_reported_together(document: dict[str, Any]) -> None:
    broken = copy.deepcopy(document["profiles"]["local"])
    broken["service"]["port"] = -1
    del broken["auth"]
    document["profiles"]["local"]["graph"]["apiVersion"] = "25"
    document |= {"version": 2, "defaultProfile": " ", "extra": {}}
    document["profiles"] |= {"second": broken, "third": [], "": {}}

    assert set(issues_of(document)) >= {
        ("unknown_key", "$.extra"),
        ("invalid_version", "$.version"),
        ("missing_default_profile", "$.defaultProfile"),
        ("invalid_api_version", "$.profiles.local.graph.apiVersion"),
        ("invalid_auth", "$.profiles.second.auth"),
        ("invalid_service_port", "$.profiles.second.service.port"),
        ("invalid_profile", "$.profiles.third"),
        ("invalid_profile", "$.profiles[?]"),
    }


@pytest.mark.parametrize("document", [None, [], "text", 1, True], ids=repr)
def test_a_document_that_is_no_mapping_is_refused(document: object) -> None:
    assert issues_of(document) == [("invalid_config", "$")]


@pytest.mark.parametrize("profiles", [None, {}, [], "local"], ids=repr)
def test_a_file_without_profiles_is_refused(document: dict[str, Any], profiles: object) -> None:
    document["profiles"] = profiles

    assert issues_of(document) == [("invalid_profiles", "$.profiles")]


@pytest.mark.parametrize("name", ["other", "toString", "__class__", "keys"])
def test_the_default_profile_must_be_one_of_the_profiles(
    document: dict[str, Any], name: str
) -> None:
    document["defaultProfile"] = name

    assert issues_of(document) == [("missing_default_profile", "$.defaultProfile")]


@pytest.mark.parametrize(
    ("key", "path", "reason"),
    [
        (
            "service.prot",
            "$.profiles.local.service.prot",
            "Is not a key of the config file; did you mean 'port'?",
        ),
        (
            "webhooks",
            "$.profiles.local.webhooks",
            "Is not a key of the config file; did you mean 'webhook'?",
        ),
        (
            "auth.zzz",
            "$.profiles.local.auth.zzz",
            "Is not a key of the config file; valid keys are accessToken.",
        ),
        (
            "auth.15551234567",
            "$.profiles.local.auth[?]",
            "Is not a key of the config file; valid keys are accessToken.",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    put: Put, key: str, path: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(put(key, "value"))

    assert caught.value.issues == (ConfigIssue("unknown_key", path, reason),)


def test_a_config_cannot_be_changed(document: dict[str, Any]) -> None:
    config = parse_config(document)

    with pytest.raises(TypeError):
        config.profiles["other"] = config.profiles["local"]  # type: ignore[index]  # the point
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.profiles["local"].service.port = 1  # type: ignore[misc]  # the point
    hash(config.profiles["local"])


def test_a_config_does_not_change_with_the_document_it_was_read_from(
    document: dict[str, Any],
) -> None:
    config = parse_config(document)

    document["profiles"].clear()

    assert list(config.profiles) == ["local"]


def test_the_representation_of_a_profile_names_no_place_of_a_secret(
    document: dict[str, Any],
) -> None:
    assert "WATS_" not in repr(parse_config(document))


def test_every_attribute_of_a_section_is_a_key_of_the_file() -> None:
    for section in PROFILE:
        if isinstance(section, Section) and section.holds is not None:
            attributes = {field.name for field in dataclasses.fields(section.holds)}
            own = [key for key in section.keys if section.repeats or not key.spec.secret]
            assert attributes == {entry.attribute for entry in (*own, *section.lists)}


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["none", "contract", "/api", "https://a.example", "1", "a:b"])
)
NAMES = st.text(max_size=8) | st.sampled_from(
    sorted({part for key in config_keys() for part in key.path.split(".")} | {"env", "file"})
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=30,
)


def mistakes(document: object) -> tuple[ConfigIssue, ...] | None:
    try:
        parse_config(document)
    except ConfigError as error:
        return error.issues
    return None


@given(JSON)
def test_any_json_is_a_config_or_a_list_of_mistakes(document: object) -> None:
    assert mistakes(document) != ()


def _leaves(path: tuple[str, ...], value: object) -> list[tuple[str, ...]]:
    inner = value.items() if isinstance(value, dict) else ()
    return [path, *(leaf for key, item in inner for leaf in _leaves((*path, key), item))]


@given(data=st.data(), replacement=JSON)
def test_any_part_of_a_good_file_may_be_anything(data: st.DataObject, replacement: object) -> None:
    document: dict[str, Any] = {"version": 1, "defaultProfile": "a", "profiles": {"a": _profile()}}
    *way, last = data.draw(st.sampled_from(_leaves((), document)[1:]))
    mapping = document
    for key in way:
        mapping = mapping[key]
    mapping[last] = replacement

    assert mistakes(document) != ()


def _profile() -> dict[str, Any]:
    source = {"env": "A"}
    return {
        "graph": {"apiVersion": "v25.0", "baseUrl": "https://a.example"},
        "whatsapp": {"wabaId": "1", "phoneNumberId": "1"},
        "auth": {"accessToken": source},
        "webhook": {"path": "/hook", "verifyToken": source, "appSecret": [source]},
        "service": {"host": "::1", "port": 1, "apiPrefix": "/api", "bearerToken": [source]},
        "persistence": {"url": "sqlite:///a"},
        "groups": {"enabled": False},
        "telemetry": {"families": "operator", "bearerToken": source},
        "handlers": ["a:b"],
        "inbox": {"concurrency": 1},
        "messages": {"retentionDays": 1},
    }


CANARIES = st.integers(10**9, 10**12).flatmap(
    lambda number: st.sampled_from([number, f"canary{number}", f"/canary{number}?", f"+{number}"])
)
CANARY_JSON = st.recursive(
    CANARIES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=30,
)


@given(data=st.data(), replacement=CANARY_JSON)
def test_no_value_of_a_refused_file_is_shown(data: st.DataObject, replacement: object) -> None:
    document: dict[str, Any] = {"version": 1, "defaultProfile": "a", "profiles": {"a": _profile()}}
    *way, last = data.draw(st.sampled_from(_leaves((), document)[1:]))
    mapping = document
    for key in way:
        mapping = mapping[key]
    mapping[last] = replacement
    document["unknown"] = replacement

    with pytest.raises(ConfigError) as caught:
        parse_config(document)

    shown = str(caught.value) + repr(caught.value)
    assert not [value for value in _values(replacement) if str(value).strip("/?+") in shown]


def _values(value: object) -> list[object]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [leaf for item in value for leaf in _values(item)]
    return [value]


@pytest.mark.parametrize("path", sorted(STATIC_PATHS))
def test_neither_webhook_nor_prefix_is_a_path_of_the_service(path: str) -> None:
    assert webhook_collides(path, "/api")
    assert prefix_collides(path)


@pytest.mark.parametrize("root", API_ROOTS)
@pytest.mark.parametrize("below", ["", "/text", "/1/window"])
def test_the_webhook_hides_no_route_of_the_api(root: str, below: str) -> None:
    assert webhook_collides(f"/api/{root}{below}", "/api")


@pytest.mark.parametrize("path", ["/webhook", "/api/webhook", "/api/messages2", "/messages", "/ap"])
def test_the_webhook_may_be_elsewhere(path: str) -> None:
    assert not webhook_collides(path, "/api")


def test_the_webhook_is_not_the_prefix() -> None:
    assert webhook_collides("/api", "/api")
