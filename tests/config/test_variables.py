import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wats.config import parse_env_file, read_env_file
from wats.config.variables import MAX_ENV_FILE_BYTES
from wats.errors import ConfigError, ConfigIssue


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
def test_a_line_sets_nothing(line: str) -> None:
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
