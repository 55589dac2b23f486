import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.config import parse_env_file, read_env_file
from wats.config.files import MAX_CONFIG_BYTES, MAX_ENV_FILE_BYTES, MAX_VALUES, read_document
from wats.errors import ConfigError, ConfigIssue
from wats.faults import Fault


def read(folder: Path, content: str | bytes, name: str = "wats.config.yaml") -> object:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_document(path)


def issue_of(folder: Path, content: str | bytes, name: str = "wats.config.yaml") -> ConfigIssue:
    with pytest.raises(ConfigError) as caught:
        read(folder, content, name)
    (issue,) = caught.value.issues
    assert issue.path == "$"
    return issue


@pytest.mark.parametrize("name", ["c.yaml", "c.yml", "c.json", "c.YAML", "c.JSON"])
def test_the_extension_selects_the_format(
    tmp_path: Path, document: dict[str, Any], name: str
) -> None:
    assert read(tmp_path, json.dumps(document), name) == document


@pytest.mark.parametrize("name", ["c.toml", "c", "yaml", ".json", "c.json.bak"])
def test_another_extension_is_refused(tmp_path: Path, name: str) -> None:
    assert issue_of(tmp_path, "{}", name).code == "unsupported_format"


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("0123", "0123"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("no", "no"),
        ("on", "on"),
        ("2026-11-22", "2026-11-22"),
        (".inf", ".inf"),
        ("v25.0", "v25.0"),
        ("none", "none"),
        ("8787", 8787),
        ("-1", -1),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("true", True),
        ("~", None),
        ("", None),
        ('"8787"  # comment', "8787"),
        ("text # comment", "text"),
    ],
)
def test_a_yaml_scalar_is_read_as_it_is_written(tmp_path: Path, scalar: str, value: object) -> None:
    assert read(tmp_path, f"a: {scalar}") == {"a": value}


def test_a_yaml_key_is_always_text(tmp_path: Path) -> None:
    assert read(tmp_path, "1: a\ntrue: b\n~: c") == {"1": "a", "true": "b", "~": "c"}


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfa: 1") == {"a": 1}


def test_an_alias_has_the_value_of_its_anchor(tmp_path: Path) -> None:
    assert read(tmp_path, "a: &x {b: 1}\nc: *x") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        pytest.param("a: 1\nb: 2\na: 3", "c.yaml", id="yaml key twice"),
        pytest.param("a: {b: {c: 1, c: 2}}", "c.yaml", id="nested yaml key twice"),
        pytest.param('{"a": 1, "a": 2}', "c.json", id="json key twice"),
        pytest.param("a: [", "c.yaml", id="open list"),
        pytest.param("a: b: c", "c.yaml", id="two mappings in a line"),
        pytest.param("a:\n\t- b", "c.yaml", id="tab"),
        pytest.param("a: 1\n---\nb: 2", "c.yaml", id="two documents"),
        pytest.param("a: *missing", "c.yaml", id="alias of nothing"),
        pytest.param("? [a, b]\n: c", "c.yaml", id="key that is a list"),
        pytest.param("a: !!python/object/apply:os.getcwd []", "c.yaml", id="python object"),
        pytest.param("a: !!binary aGk=", "c.yaml", id="binary"),
        pytest.param("a: !!set {b, c}", "c.yaml", id="set"),
        pytest.param("a: !own b", "c.yaml", id="own tag"),
        pytest.param("a: !!bool perhaps", "c.yaml", id="tag that lies about a bool"),
        pytest.param("a: !!int x", "c.yaml", id="tag that lies about an integer"),
        pytest.param("a: !!int ''", "c.yaml", id="tag that lies about nothing"),
        pytest.param("a: !!map [[b, c]]", "c.yaml", id="tag that lies about a mapping"),
        pytest.param("a: " + "1" * 5000, "c.yaml", id="yaml number without end"),
        pytest.param('{"a": ' + "1" * 5000 + "}", "c.json", id="json number without end"),
        pytest.param('{"a": NaN}', "c.json", id="not a number"),
        pytest.param('{"a": 1} x', "c.json", id="more after the end"),
        pytest.param("", "c.json", id="empty json"),
        pytest.param("[" * 100_000, "c.json", id="deep json"),
        pytest.param("[" * 5_000, "c.yaml", id="deep yaml"),
        pytest.param(b"a: \xff", "c.yaml", id="not utf-8"),
        pytest.param(b"a: \x00", "c.yaml", id="null byte"),
    ],
)
def test_a_file_with_a_syntax_error_is_refused(
    tmp_path: Path, content: str | bytes, name: str
) -> None:
    assert issue_of(tmp_path, content, name).code == "parse_error"


def test_a_repeated_yaml_key_is_reported_by_its_line(tmp_path: Path) -> None:
    reason = "Line 3 has a key that its mapping already has."

    assert issue_of(tmp_path, "a: 1\nb: 2\na: 3").reason == reason


@pytest.mark.parametrize("name", ["c.yaml", "c.json"])
def test_a_broken_line_is_reported_by_its_number_and_not_shown(tmp_path: Path, name: str) -> None:
    issue = issue_of(tmp_path, '{"a": 1,\n"word-nobody-may-see": }}', name)

    reason = {
        "c.yaml": "The file is not valid in line 2, column 25: expected '<document start>'.",
        "c.json": "The file is not valid in line 2, column 24: Expecting value.",
    }
    assert issue.reason == reason[name]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: b: c", "in line 1, column 5: mapping values are not allowed here"),
        ("a:\n\t- b", "in line 2, column 1: found character '\\t'"),
        ("a: [1,\nb: 2", "in line 2, column 5: expected ',' or ']'"),
        ("a: 'b", "in line 1, column 6: found unexpected end of stream"),
        ("a: *word-nobody-may-see", "in line 1, column 4: found undefined alias"),
        ("a: 1\n b: 2", "in line 2, column 3: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2", "in line 2, column 1: found another document"),
    ],
)
def test_a_syntax_error_is_explained_without_quoting_the_file(
    tmp_path: Path, content: str, reason: str
) -> None:
    assert issue_of(tmp_path, content).reason == f"The file is not valid {reason}."


def test_a_file_that_grows_through_its_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]

    issue = issue_of(tmp_path, "\n".join(lines))

    assert issue.code == "parse_error"
    assert "aliases" in issue.reason


@pytest.mark.parametrize("content", ["&a [*a]", "&a {b: *a}", "a: &a [1, {b: [*a, *a]}]"])
def test_a_file_with_a_recursive_alias_is_refused(tmp_path: Path, content: str) -> None:
    assert issue_of(tmp_path, content).code == "parse_error"


def test_a_file_with_too_many_values_is_refused(tmp_path: Path) -> None:
    assert issue_of(tmp_path, json.dumps([0] * MAX_VALUES), "c.json").code == "parse_error"


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    content = b"#" * (MAX_CONFIG_BYTES + 1)

    assert issue_of(tmp_path, content).code == "file_read_error"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("missing.yaml", Fault.NO_SUCH_FILE),
        ("text/c.yaml", Fault.NOT_A_DIRECTORY),
        ("folder.yaml", Fault.IS_A_DIRECTORY),
        ("nu\x00ll.yaml", Fault.UNREADABLE),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_path_and_the_cause(
    tmp_path: Path, name: str, fault: Fault
) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "text").touch()
    path = tmp_path / name

    with pytest.raises(ConfigError) as caught:
        read_document(path)
    with pytest.raises(ConfigError) as of_env_file:
        read_env_file(path)

    reason = f"{str(path)!r} cannot be read: {fault.meaning}."
    assert caught.value.issues == (ConfigIssue("file_read_error", "$", reason),)
    assert of_env_file.value.issues == (ConfigIssue("file_read_error", "env-file", reason),)


YAML_WORDS = (
    "a|: |- |\n|  |[|]|{|}|, |&x |*x|!!map |!!int |!!str |!!seq |'|\"|>|#|? |<<|1|~|---\n|\t"
)
YAML_PIECES = st.lists(st.sampled_from(YAML_WORDS.split("|")), max_size=30).map("".join)


@given(content=YAML_PIECES | st.text(max_size=40), name=st.sampled_from(["c.yaml", "c.json"]))
def test_any_text_is_plain_values_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: str, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content.encode())

    with contextlib.suppress(ConfigError):
        json.dumps(read_document(path))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("  A = b  ", "b"),
        ("export A=b", "b"),
        ("A=b\r", "b"),
        ("A=b # comment", "b"),
        ("A=b#c", "b#c"),
        ("A=b=c==", "b=c=="),
        ("A=two words", "two words"),
        ("A='b'", "b"),
        ('A="b c"', "b c"),
        ("A='b # c' # comment", "b # c"),
        ("""A='say "b"'""", 'say "b"'),
        (r'A="b\n"', r"b\n"),
        ("A=it's", "it's"),
        ("A=' b '", " b "),
        ("A=ä", "ä"),
        ("A=b\tc", "b\tc"),
    ],
)
def test_a_line_sets_a_variable(line: str, value: str) -> None:
    assert parse_env_file(line) == {"A": value}


@pytest.mark.parametrize("line", ["", "   ", "# A=b", "  # A=b", "A=", "A=  ", "A=''", "A=# b"])
def test_blank_lines_and_comments_set_no_variable(line: str) -> None:
    assert parse_env_file(line) == {}


@pytest.mark.parametrize(
    "line",
    [
        "A",
        "=b",
        "1A=b",
        "A-B=c",
        "A B=c",
        "A='b",
        'A="b',
        "A='b'c",
        "A=b\x00",
        "A=\x1b[0m",
        "A='b\"'x",
    ],
)
def test_a_line_that_is_something_else_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_env_file(f"# first\n{line}")

    assert caught.value.issues == (
        ConfigIssue("invalid_env_file", "env-file:2", "Must be KEY=VALUE or a comment."),
    )


def test_every_line_that_cannot_be_used_is_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_env_file("A=1\nB\nA=2\nC=3\nC=")

    assert [issue.path for issue in caught.value.issues] == [
        "env-file:2",
        "env-file:3",
        "env-file:5",
    ]


@pytest.mark.parametrize("line", ["B", "A=2"])
def test_a_file_that_is_not_an_env_file_is_one_mistake(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_env_file("A=1\n" + f"{line}\n" * 5000)

    (issue,) = caught.value.issues
    assert (issue.code, issue.path) == ("invalid_env_file", "env-file")
    assert issue.reason == "Is not an env file: 5000 lines are invalid, the first is line 2."


def test_the_text_of_an_error_lists_a_limited_number_of_mistakes() -> None:
    issues = [ConfigIssue("unknown_key", f"$.a{number}", "Is unknown.") for number in range(9999)]

    lines = str(ConfigError(issues)).splitlines()

    assert lines[50] == "  $.a49: Is unknown. (unknown_key)"
    assert lines[51:] == ["  9949 more mistakes are not shown."]


def test_an_env_file_may_have_a_byte_order_mark_and_any_key(tmp_path: Path) -> None:
    path = tmp_path / "anything"
    path.write_bytes(b"\xef\xbb\xbfA=b\r\nOTHER=c\r\n")

    assert read_env_file(path) == {"A": "b", "OTHER": "c"}


def test_an_env_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"#" * (MAX_ENV_FILE_BYTES + 1))

    with pytest.raises(ConfigError) as caught:
        read_env_file(path)

    (issue,) = caught.value.issues
    assert (issue.code, issue.path) == ("file_read_error", "env-file")


@given(st.text(alphabet=st.sampled_from("A=b'\"# \t\n\r\\é\x00"), max_size=60))
def test_any_text_is_variables_that_are_not_blank_or_is_refused(content: str) -> None:
    with contextlib.suppress(ConfigError):
        assert all(value.strip() for value in parse_env_file(content).values())
