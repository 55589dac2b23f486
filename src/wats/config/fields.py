"""The keys of the file, made of the fields of the profile, and how a mistake is named. No I/O."""

import difflib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Final, TypeVar

from wats.config.checks import Spec
from wats.config.numbers import NUMBERS_CODE, TOKENS_CODE, NumberConfig, TokenConfig
from wats.config.outbox import OutboxConfig
from wats.config.profile import (
    Config,
    GraphConfig,
    GroupsConfig,
    InboxConfig,
    MessagesConfig,
    PersistenceConfig,
    Profile,
    ServiceConfig,
    TelemetryConfig,
    WebhookConfig,
    WhatsAppConfig,
)
from wats.config.pullers import CODE as PULLERS_CODE
from wats.config.pullers import PullerConfig
from wats.config.secret_sources import SecretSources
from wats.config.subscribers import CODE as SUBSCRIBERS_CODE
from wats.config.subscribers import SubscriberConfig
from wats.errors import ConfigError, ConfigIssue

MAX_ITEMS: Final = 32
MAX_TOKENS: Final = 100
"""Each request is compared with all of them."""
MAX_NUMBERS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key that holds a value: its spelling, its attribute and its description."""

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
        """The valid values."""
        expects = self.spec.check.expects
        return f"{expects}, or a list" if self.spec.repeats else expects


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One key that holds a section, and the dataclass of its attributes.

    A section with a `word` may be replaced by that word, and is then `word_means`. The value of a
    section that `repeats` is a list of at most `most` sections; its secrets are kept in it. The
    `lists` are such sections within this one.
    """

    name: str
    code: str
    holds: type[Any] | None
    keys: tuple[Key, ...] = field(default=())
    word: str | None = None
    word_means: object = None
    repeats: bool = False
    most: int = MAX_ITEMS
    lists: "tuple[Section, ...]" = ()

    @property
    def attribute(self) -> str:
        """The attribute of the profile that holds the section."""
        return self.name

    @property
    def entries(self) -> "tuple[Section | Key, ...]":
        """All keys and sections of the section."""
        return (*self.keys, *self.lists)

    @property
    def required(self) -> bool:
        """Whether the section has a key without a default, and cannot be an empty list."""
        return not self.repeats and any(key.required for key in self.keys)

    @property
    def expects(self) -> str:
        """The valid values."""
        mapping = "a mapping of " + ", ".join(f"'{entry.name}'" for entry in self.entries)
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


def _section(name: str, holds: type[Any] | None, **more: Any) -> Section:
    secrets = (key for key in _keys(SecretSources) if key.spec.section == name)
    return Section(
        name=name,
        code=f"invalid_{name}",
        holds=holds,
        keys=(*_keys(holds), *secrets),
        **more,
    )


def _list(name: str, code: str, holds: type[Any], most: int = MAX_ITEMS) -> Section:
    keys = tuple(_keys(holds))
    return Section(name=name, code=code, holds=holds, keys=keys, repeats=True, most=most)


FILE: Final = tuple(_keys(Config))
"""The keys of the file itself."""

PROFILE: Final[tuple[Section | Key, ...]] = (
    _section("graph", GraphConfig),
    _section("whatsapp", WhatsAppConfig),
    _section("auth", None),
    _section("webhook", WebhookConfig),
    _section(
        "service", ServiceConfig, lists=(_list("tokens", TOKENS_CODE, TokenConfig, MAX_TOKENS),)
    ),
    _section("persistence", PersistenceConfig, word="none", word_means=PersistenceConfig(url=None)),
    _section("groups", GroupsConfig),
    _section("telemetry", TelemetryConfig),
    _list("numbers", NUMBERS_CODE, NumberConfig, MAX_NUMBERS),
    *_keys(Profile),
    _list("subscribers", SUBSCRIBERS_CODE, SubscriberConfig),
    _list("pullers", PULLERS_CODE, PullerConfig),
    _section("inbox", InboxConfig),
    _section("messages", MessagesConfig),
    _section("outbox", OutboxConfig),
)
"""The sections and keys of each profile."""


T = TypeVar("T")

_SHOWN = re.compile("[A-Za-z][A-Za-z0-9_.-]{0,39}")
_SHOWN_VARIABLE = re.compile("[A-Z][A-Z0-9_]{0,63}")


def step(path: str, key: object) -> str:
    """Return *path* and *key* below it, or a question mark for a key that is not a plain name.

    A long or odd key is more likely a value in the wrong position.
    """
    shown = isinstance(key, str) and _SHOWN.fullmatch(key)
    return f"{path}.{key}" if shown else f"{path}[?]"


def unknown_key(path: str, key: object, known: Collection[str]) -> ConfigIssue:
    """Return the issue for a key that is not in *known*, with the nearest known key."""
    where = step(path, key)
    near = [] if where.endswith("[?]") else difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"valid keys are {', '.join(known)}."
    return ConfigIssue("unknown_key", where, f"Is not a key of the config file; {hint}")


def variable(name: str) -> str:
    """Return how to call the environment variable *name*.

    A name in small letters may be a pasted token, so it is not repeated.
    """
    if _SHOWN_VARIABLE.fullmatch(name):
        return f"The environment variable '{name}'"
    return "The environment variable of this key"


def attempt(work: Callable[[], T], issues: list[ConfigIssue]) -> T | None:
    """Return the result of *work*, or add its mistakes to *issues* and return None."""
    try:
        return work()
    except ConfigError as error:
        issues.extend(error.issues)
        return None
