"""A profile as its owner may show it to others. No I/O."""

from typing import Any

from wats.config.fields import PROFILE, Key, Section
from wats.config.profile import EnvRef, ProfileSource, SecretSource
from wats.privacy import REDACTED


def redact(profile: ProfileSource) -> dict[str, Any]:
    """Return *profile* in the shape and order of the config file, for printing.

    Ids, the database, and sources of secrets show as `[REDACTED]`. Defaults are written out; a key
    without value and default is left out.
    """
    shown = {}
    for entry in PROFILE:
        value = _section(entry, profile) if isinstance(entry, Section) else _key(entry, profile)
        shown[entry.name] = value
    return shown


def _section(section: Section, profile: ProfileSource) -> object:
    held = getattr(profile, section.attribute, None)
    if section.word is not None and held == section.word_means:
        return section.word
    shown = {}
    for key in section.keys:
        value = _key(key, profile.secrets if key.spec.secret else held)
        if value not in (None, []):
            shown[key.name] = value
    return shown


def _key(key: Key, holder: object) -> object:
    value = getattr(holder, key.attribute)
    if key.spec.secret:
        places = [_place(source) for source in value]
        return places[0] if len(places) == 1 else places
    if isinstance(value, tuple):
        return list(value)
    return REDACTED if key.spec.shy else value


def _place(source: SecretSource) -> dict[str, str]:
    return {"env" if isinstance(source, EnvRef) else "file": REDACTED}
