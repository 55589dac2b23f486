"""Turn a decoded document into a Config, or into the list of all its mistakes. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Any, Final

from wats.config.checks import is_plain_beyond_loopback
from wats.config.fields import FILE, MAX_ITEMS, PROFILE, Key, Section, step, unknown_key
from wats.config.numbers import CONSUMERS, mistakes_between, name_numbers
from wats.config.profile import (
    Config,
    GraphConfig,
    InboxConfig,
    PersistenceConfig,
    ProfileSource,
)
from wats.config.secret_sources import SecretSources
from wats.config.subscribers import CODE, DEFAULT_TIMEOUT_SECONDS, MAX_PAUSES, needs_https
from wats.errors import ConfigError, ConfigIssue

_ABSENT: Final = object()
_GRAPH_DEFAULTS: Final = {
    each.name: each.default for each in fields(GraphConfig) if each.default is not MISSING
}


def parse_config(document: object) -> Config:
    """Check *document*, a parsed config file, and return it as a Config.

    Every profile is checked. No secret is read.

    Raises:
        ConfigError: With an issue for each mistake, none of which shows a value.
    """
    reader = _Reader()
    config = reader.config(document)
    if reader.issues:
        raise ConfigError(reader.issues)
    return _build(config)


class _Reader:
    """One walk over a document: returns valid values and collects mistakes."""

    def __init__(self) -> None:
        self.issues: list[ConfigIssue] = []

    def config(self, document: object) -> dict[str, Any]:
        if not isinstance(document, dict):
            self._refuse("invalid_config", "$", "a mapping with the keys of the config file")
            return {}
        found = self._entries(document, FILE, "$")
        named = found.get("profiles", {})
        if "profiles" in found and found.get("default_profile", _ABSENT) not in {_ABSENT, *named}:
            self._refuse("missing_default_profile", "$.defaultProfile", "the name of a profile")
        profiles = {name: self._profile(name, value) for name, value in named.items()}
        return {**found, "profiles": profiles}

    def _profile(self, name: object, value: object) -> dict[str, Any]:
        path = step("$.profiles", name)
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            self._refuse("invalid_profile", path, "named with printable characters")
        if not isinstance(value, dict):
            self._refuse("invalid_profile", path, "a mapping with the keys of a profile")
            return {}
        found = self._entries(value, PROFILE, path)
        self._refuse_collisions(found, path)
        graph = {**_GRAPH_DEFAULTS, **found.get("graph", {})}
        self._refuse_plain_http(graph, path)
        self._refuse_what_needs_a_database(found, path)
        if graph["connect_seconds"] >= graph["timeout_seconds"]:
            expects = "less than 'timeoutSeconds'"
            self._refuse("invalid_graph", f"{path}.graph.connectSeconds", expects)
        self._check_subscribers(found, path)
        name_numbers(found)
        for code, place, expects in mistakes_between(found):
            self._refuse(code, f"{path}.{place}", expects)
        return found

    def _entries(
        self, mapping: Mapping[object, object], entries: Sequence[Section | Key], path: str
    ) -> dict[str, Any]:
        known = [entry.name for entry in entries]
        self.issues.extend(unknown_key(path, key, known) for key in mapping if key not in known)
        found = {}
        for entry in entries:
            value = self._entry(entry, mapping.get(entry.name, _ABSENT), f"{path}.{entry.name}")
            if value is not _ABSENT:
                found[entry.attribute] = value
        return found

    def _entry(self, entry: Section | Key, value: object, path: str) -> object:
        if value is _ABSENT:
            if entry.required:
                reason = f"Is missing; it must be {entry.expects}."
                self.issues.append(ConfigIssue(entry.code, path, reason))
            return _ABSENT
        if isinstance(entry, Section):
            read = self._sections if entry.repeats else self._section
            return read(entry, value, path)
        if isinstance(value, list) and entry.spec.repeats:
            return self._items(entry, value, path)
        found = self._value(entry, value, path)
        is_tuple = entry.spec.repeats or entry.spec.secret
        return (found,) if is_tuple and found is not _ABSENT else found

    def _section(self, section: Section, value: object, path: str) -> object:
        if section.word is not None and value == section.word:
            return section.word_means
        if not isinstance(value, dict):
            self._refuse(section.code, path, section.expects)
            return _ABSENT
        return self._entries(value, section.entries, path)

    def _sections(self, section: Section, value: object, path: str) -> object:
        if not isinstance(value, list) or len(value) > section.most:
            self._refuse(section.code, path, f"a list of at most {section.most} items")
            return _ABSENT
        return [self._section(section, each, f"{path}[{i}]") for i, each in enumerate(value)]

    def _items(self, key: Key, values: list[object], path: str) -> object:
        least = int(key.required or key.spec.selects)
        if not least <= len(values) <= MAX_ITEMS:
            self._refuse(key.code, path, f"a list of {least} to {MAX_ITEMS} items")
            return _ABSENT
        return tuple(self._value(key, item, f"{path}[{i}]") for i, item in enumerate(values))

    def _value(self, key: Key, value: object, path: str) -> object:
        accepted = key.spec.check.accept(value)
        if accepted is None:
            self.issues.append(ConfigIssue(key.code, path, key.spec.check.reason(value)))
            return _ABSENT
        return accepted

    def _refuse_collisions(self, found: dict[str, Any], path: str) -> None:
        prefix = found.get("service", {}).get("api_prefix")
        webhook = found.get("webhook", {}).get("path")
        if prefix is not None and prefix_collides(prefix):
            reason = "a path that differs from the service's own routes"
            self._refuse("invalid_path", f"{path}.service.apiPrefix", reason)
        if prefix is not None and webhook is not None and webhook_collides(webhook, prefix):
            reason = "a path that differs from the routes of the service and its API"
            self._refuse("invalid_path", f"{path}.webhook.path", reason)

    def _refuse_plain_http(self, graph: dict[str, Any], path: str) -> None:
        # The access token travels in every request.
        url = graph.get("base_url")
        if url and not graph.get("allow_insecure_http") and is_plain_beyond_loopback(url):
            reason = "an https URL, unless the host is loopback or graph.allowInsecureHttp is true"
            self._refuse("invalid_base_url", f"{path}.graph.baseUrl", reason)

    def _refuse_what_needs_a_database(self, found: dict[str, Any], path: str) -> None:
        if found.get("persistence") != PersistenceConfig(url=None):
            return
        if found.get("messages", {}).get("window_guard"):
            expects = "false without a database, which records the windows"
            self._refuse("invalid_messages", f"{path}.messages.windowGuard", expects)
        for name in CONSUMERS:
            if found.get(name):
                expects = "left out without a database, which stores their updates"
                self._refuse(f"invalid_{name}", f"{path}.{name}", expects)

    def _check_subscribers(self, found: dict[str, Any], path: str) -> None:
        limit = found.get("inbox", {}).get(
            "handler_timeout_seconds", InboxConfig().handler_timeout_seconds
        )
        for i, each in enumerate(found.get("subscribers", ())):
            if each is _ABSENT:
                continue
            place = f"{path}.subscribers[{i}]"
            if needs_https(each.get("url", "https:")) and not each.get("allow_private_network"):
                expects = "an https URL, unless allowPrivateNetwork is true"
                self._refuse(CODE, f"{place}.url", expects)
            if each.get("timeout_seconds", DEFAULT_TIMEOUT_SECONDS) >= limit:
                expects = "less than 'inbox.handlerTimeoutSeconds'"
                self._refuse(CODE, f"{place}.timeoutSeconds", expects)
            if each.get("batch", 1) > 1 and each.get("format", "update") != "meta":
                self._refuse(CODE, f"{place}.batch", "1, unless format is meta")
            if len(each.get("schedule", ())) > MAX_PAUSES:
                self._refuse(CODE, f"{place}.schedule", f"a list of at most {MAX_PAUSES} durations")

    def _refuse(self, code: str, path: str, expects: str) -> None:
        self.issues.append(ConfigIssue(code, path, f"Must be {expects}."))


def _build(found: dict[str, Any]) -> Config:
    profiles = {name: _build_profile(name, values) for name, values in found["profiles"].items()}
    return Config(**{**found, "profiles": MappingProxyType(profiles)})


def _build_profile(name: str, found: dict[str, Any]) -> ProfileSource:
    parts: dict[str, Any] = {}
    secrets: dict[str, Any] = {}
    for entry in PROFILE:
        value = found.get(entry.attribute, _ABSENT)
        if isinstance(entry, Section) and isinstance(value, list):
            value = _items_of(entry, value)
        if isinstance(entry, Section) and isinstance(value, dict):
            attributes = {key.attribute for key in entry.keys if key.spec.secret}
            secrets |= {key: value[key] for key in attributes & value.keys()}
            value = {key: value[key] for key in value.keys() - attributes}
            for each in entry.lists:
                if each.attribute in value:
                    value[each.attribute] = _items_of(each, value[each.attribute])
            value = entry.holds(**value) if entry.holds else _ABSENT
        if value is not _ABSENT:
            parts[entry.attribute] = value
    return ProfileSource(name=name, secrets=SecretSources(**secrets), **parts)


def _items_of(section: Section, values: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    return tuple(section.holds(**each) for each in values) if section.holds else ()


STATIC_PATHS: Final = frozenset(
    {"/healthz", "/readyz", "/status", "/metrics", "/debug/diagnostics", "/openapi.json"}
)
"""The paths of the service that do not depend on the configuration."""

API_ROOTS: Final = (
    *("messages", "marketing_messages", "conversations"),
    *("media", "graph", "groups", "numbers", "outbox", "updates", "admin"),
)
"""The paths below the API prefix. All are reserved, even those that are switched off."""


def webhook_collides(webhook_path: str, api_prefix: str) -> bool:
    """Return whether the webhook would hide a route of the service, or be hidden by one."""
    roots = tuple(f"{api_prefix}/{root}/" for root in API_ROOTS)
    path = webhook_path.removesuffix("/")  # a proxy may remove it
    return path in STATIC_PATHS or path == api_prefix or f"{path}/".startswith(roots)


def prefix_collides(api_prefix: str) -> bool:
    """Return whether the API would be below a path with another meaning."""
    return api_prefix in STATIC_PATHS
