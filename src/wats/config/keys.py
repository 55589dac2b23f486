"""The table of all keys in the order of the file, made from the fields of the sections. No I/O."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Final

from wats.config.sections import (
    Config,
    GraphConfig,
    GroupsConfig,
    InboxConfig,
    MessagesConfig,
    PersistenceConfig,
    Profile,
    SecretSources,
    ServiceConfig,
    Spec,
    TelemetryConfig,
    WebhookConfig,
    WhatsAppConfig,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key that holds a value: its spelling, its attribute and what is said about it."""

    name: str
    attribute: str
    required: bool
    default: Any
    spec: Spec

    @property
    def code(self) -> str:
        """The code of an issue with this key."""
        return self.spec.code

    @property
    def expects(self) -> str:
        """What the value must be."""
        expects = self.spec.check.expects
        return f"{expects}, or a list" if self.spec.repeats else expects


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One key that holds keys, and the dataclass that they are attributes of.

    A section with a `word` may be that word instead of a mapping, and is then `word_means`.
    """

    name: str
    code: str
    holds: type[Any] | None
    keys: tuple[Key, ...] = field(default=())
    word: str | None = None
    word_means: object = None

    @property
    def attribute(self) -> str:
        """The attribute of the profile that holds the section."""
        return self.name

    @property
    def required(self) -> bool:
        """Whether the section has a key without a default."""
        return any(key.required for key in self.keys)

    @property
    def expects(self) -> str:
        """What the value must be."""
        mapping = "a mapping of " + ", ".join(f"'{key.name}'" for key in self.keys)
        return f"'{self.word}' or {mapping}" if self.word else mapping


def _camel_case(attribute: str) -> str:
    return re.sub("_(.)", lambda match: match[1].upper(), attribute)


def _key(attribute: Field[Any]) -> Key:
    spec: Spec = attribute.metadata["spec"]
    return Key(
        name=spec.name or _camel_case(attribute.name),
        attribute=attribute.name,
        required=attribute.default is MISSING,
        default=None if attribute.default is MISSING else attribute.default,
        spec=spec,
    )


def _keys(holds: type[Any] | None) -> Iterator[Key]:
    if holds is not None:
        yield from (_key(attribute) for attribute in fields(holds) if attribute.metadata)


def _section(
    name: str, holds: type[Any] | None, *, word: str | None = None, word_means: object = None
) -> Section:
    secrets = (key for key in _keys(SecretSources) if key.spec.section == name)
    return Section(
        name=name,
        code=f"invalid_{name}",
        holds=holds,
        keys=(*_keys(holds), *secrets),
        word=word,
        word_means=word_means,
    )


FILE: Final = tuple(_keys(Config))
"""The keys of the file itself."""

PROFILE: Final[tuple[Section | Key, ...]] = (
    _section("graph", GraphConfig),
    _section("whatsapp", WhatsAppConfig),
    _section("auth", None),
    _section("webhook", WebhookConfig),
    _section("service", ServiceConfig),
    _section("persistence", PersistenceConfig, word="none", word_means=PersistenceConfig(url=None)),
    _section("groups", GroupsConfig),
    _section("telemetry", TelemetryConfig),
    *_keys(Profile),
    _section("inbox", InboxConfig),
    _section("messages", MessagesConfig),
)
"""The sections and keys of each profile."""
