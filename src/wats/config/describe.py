"""The keys of the file as a table, and a profile without private values. No I/O."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wats.config.fields import FILE, PROFILE, Key, Section
from wats.config.profile import ProfileSource
from wats.config.secret_sources import EnvRef, SecretSource
from wats.privacy import REDACTED


def redact(profile: ProfileSource) -> dict[str, Any]:
    """Return *profile* in the shape and order of the config file, for printing.

    Ids, the database, and sources of secrets show as `[REDACTED]`. Defaults are written out; a key
    without value and default is left out.
    """
    shown = {}
    for entry in PROFILE:
        value = _section(entry, profile) if isinstance(entry, Section) else _key(entry, profile)
        if value is not None:
            shown[entry.name] = value
    return shown


def _section(section: Section, profile: ProfileSource) -> object:
    held = getattr(profile, section.attribute, None)
    if section.repeats:
        return [_shown(section, each, each) for each in held or ()]
    if section.word is not None and held == section.word_means:
        return section.word
    return _shown(section, held, profile.secrets)


def _shown(section: Section, held: object, secrets: object) -> dict[str, object]:
    shown = {}
    for key in section.keys:
        value = _key(key, secrets if key.spec.secret else held)
        if value not in (None, []):
            shown[key.name] = value
    for each in section.lists:
        if items := getattr(held, each.attribute):
            shown[each.name] = [_shown(each, item, item) for item in items]
    return shown


def _key(key: Key, holder: object) -> object:
    value = getattr(holder, key.attribute)
    if key.spec.secret:
        places = [_place(source) for source in value]
        return places[0] if len(places) == 1 else places
    if isinstance(value, tuple):
        return [REDACTED for _ in value] if key.spec.shy else list(value)
    return REDACTED if key.spec.shy and value is not None else value


def _place(source: SecretSource) -> dict[str, str]:
    return {"env" if isinstance(source, EnvRef) else "file": REDACTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigKey:
    """One key of the config file, in its documented form.

    Attributes:
        path: Its position, `NAME` being the name of a profile.
        type: The valid values.
        required: Whether there is no default; in an optional section, whether the section needs it.
        default: Its value if it is omitted.
        meaning: Its purpose, in one sentence.
    """

    path: str
    type: str
    required: bool
    default: object
    meaning: str


def config_keys() -> tuple[ConfigKey, ...]:
    """Return every key that a config file can have, in the order of the file."""
    return (*(_describe("", key) for key in FILE), *_profile_keys("profiles.NAME."))


def markdown_table() -> str:
    """Return the keys as a Markdown table."""
    rows = [_row(key) for key in config_keys()]
    return "\n".join(["| Key | Must be | Default | Meaning |", "|---|---|---|---|", *rows])


def _profile_keys(path: str) -> Iterator[ConfigKey]:
    for entry in PROFILE:
        if isinstance(entry, Section):
            yield from (_describe(f"{path}{entry.name}.", key) for key in entry.keys)
            for each in entry.lists:
                place = f"{path}{entry.name}.{each.name}."
                yield from (_describe(place, key) for key in each.keys)
        else:
            yield _describe(path, entry)


def _describe(path: str, key: Key) -> ConfigKey:
    return ConfigKey(
        path=f"{path}{key.name}",
        type=key.expects,
        required=key.required,
        default=key.default,
        meaning=key.spec.meaning,
    )


def _row(key: ConfigKey) -> str:
    if key.required:
        default = "required"
    elif key.default in (None, ()):
        default = "none"
    else:
        default = f"`{json.dumps(key.default)}`"
    kind = re.sub("('[^']+'|[{][^}]+[}])", r"`\1`", key.type).replace("`'", "`").replace("'`", "`")
    return f"| `{key.path}` | {kind} | {default} | {key.meaning} |"
