"""Files become text, and a config file's text becomes plain values. Reads the named files only."""

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

import yaml
from typing_extensions import override

from wats.errors import ConfigError, ConfigIssue

MAX_CONFIG_BYTES: Final = 1_048_576
MAX_VALUES: Final = 10_000


class _Unreadable(ValueError):
    """The text breaks a rule that its format alone does not make."""


def read_text(path: Path, *, limit: int, where: str) -> str:
    """Return the text of the file at *path*, without a byte order mark.

    Raises:
        ConfigError: At *where*: the file cannot be read, is larger than *limit* bytes or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (OSError, ValueError):
        raise _error("file_read_error", where, "The file cannot be read.") from None
    if len(content) > limit:
        raise _error("file_read_error", where, f"The file has more than {limit} bytes.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _error("parse_error", where, "The file is not UTF-8.") from None


def read_document(path: Path) -> object:
    """Return what the config file at *path* holds, as plain values.

    Raises:
        ConfigError: The file cannot be read, is in another format than its name says, repeats a
            key, or expands to more than any config file needs.
    """
    decode = _DECODERS.get(path.suffix.lower())
    if decode is None:
        raise _error("unsupported_format", "$", "Must be a '.yaml', '.yml' or '.json' file.")
    content = read_text(path, limit=MAX_CONFIG_BYTES, where="$")
    try:
        document = decode(content)
    except _Unreadable as error:
        raise _error("parse_error", "$", str(error)) from None
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        # Whatever else these say may quote the file.
        raise _error("parse_error", "$", f"The file is not valid{_line(error)}.") from None
    if not _is_bounded(document):
        reason = f"The file has more than {MAX_VALUES} values after its aliases are expanded."
        raise _error("parse_error", "$", reason)
    return document


def _error(code: str, where: str, reason: str) -> ConfigError:
    return ConfigError([ConfigIssue(code, where, reason)])


def _line(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f" in line {error.lineno}"
    mark = getattr(error, "problem_mark", None)
    return f" in line {mark.line + 1}" if mark else ""


def _is_bounded(document: object) -> bool:
    """Tell whether *document* is small once every alias in it is written out."""
    pending, count = [document], 1
    while pending:
        value = pending.pop()
        inner: Collection[object] = ()
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
        # Counted before they are put aside, so that a file cannot make us hold more either.
        count += len(inner)
        if count > MAX_VALUES:
            return False
        pending.extend(inner)
    return True


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        reason = "A mapping in the file has a duplicate key."
        raise _Unreadable(reason)
    return mapping


def _refuse_constant(_: str) -> object:
    reason = "The file has a number that is not valid JSON."
    raise _Unreadable(reason)


def _decode_json(content: str) -> object:
    return json.loads(content, object_pairs_hook=_unique, parse_constant=_refuse_constant)


_SCALARS: Final = {
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": "[-+]?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?",
}
_TAGS: Final = [f"tag:yaml.org,2002:{name}" for name in (*_SCALARS, "str", "seq", "map")]


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of its 1.2 core schema, and with keys that are text and unique.

    PyYAML's own rules are those of 1.1: there `0123` is 83, `1:30` is 90 and `no` is false, so an
    id without quotes could turn into another one in silence.
    """

    # PyYAML reads its tables from the class and types them as if they were an object's.
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  # see above
    yaml_constructors = {  # noqa: RUF012  # see above
        tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (*_TAGS, None)
    }

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):  # what `!!map` was written before
            raise yaml.constructor.ConstructorError(problem_mark=node.start_mark)
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_scalar(key_node)
            if key in mapping:
                line = key_node.start_mark.line + 1
                reason = f"Line {line} has a key that its mapping already has."
                raise _Unreadable(reason)
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping


for _tag, _pattern in zip(_TAGS, _SCALARS.values(), strict=False):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})\Z"), None)


def _decode_yaml(content: str) -> object:
    loader = _Loader(content)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


_DECODERS: Final[dict[str, Callable[[str], object]]] = {
    ".json": _decode_json,
    ".yaml": _decode_yaml,
    ".yml": _decode_yaml,
}
