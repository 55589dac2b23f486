"""Arguments of every command: strict, and never repeated on stderr."""

from collections.abc import Iterator

import click
import pytest
from click import Context
from click.testing import CliRunner

from wats.cli import COMMANDS, main

CANARY = "a-canary-of-sixteen"


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield each command and subcommand, with its words."""
    for name in COMMANDS:
        command = main.get_command(Context(main), name)
        assert command is not None
        inner = command.commands if isinstance(command, click.Group) else {}
        yield from ((f"{name} {word}", each) for word, each in inner.items())
        yield name, command


def options() -> Iterator[tuple[str, str, bool]]:
    """Yield each option of each command, and whether it is a flag."""
    for words, command in commands():
        for param in command.params:
            if isinstance(param, click.Option) and not param.multiple:
                yield words, param.opts[0], param.is_flag


def test_the_reader_of_a_file_reports_why_it_cannot_be_read() -> None:
    paths = [
        param.type
        for _, command in commands()
        for param in command.params
        if isinstance(param.type, click.Path)
    ]

    assert paths
    assert not [path for path in paths if path.readable or path.exists]


def test_a_repeated_option_is_an_error(wats, subtests) -> None:
    for words, option, is_flag in options():
        with subtests.test(f"{words} {option}"):
            once = [option] if is_flag else [option, CANARY]

            result = wats.invoke(*words.split(), *once, *once)

            assert (result.code, result.out) == (1, "")
            assert f"'{option}'" in result.err
            assert "is given more than once." in result.err
            assert CANARY not in result.err


@pytest.mark.parametrize("more", [[f"--{CANARY}"], [f"--{CANARY}={CANARY}"], ["-" + CANARY]])
def test_an_unknown_option_is_not_repeated(wats, subtests, more: list[str]) -> None:
    for words, _ in commands():
        with subtests.test(words):
            result = wats.invoke(*words.split(), *more)

            assert (result.code, result.out) == (1, "")
            assert "There is no such option." in result.err
            assert CANARY not in result.err


def test_an_argument_too_many_is_not_repeated(wats, subtests) -> None:
    for words, _ in commands():
        with subtests.test(words):
            result = wats.invoke(*words.split(), *[CANARY] * 4)

            assert (result.code, result.out) == (1, "")
            assert CANARY not in result.err


def test_an_unknown_command_is_not_repeated(wats) -> None:
    assert wats.invoke(CANARY).err.endswith("Error: There is no such command.\n")
    assert wats.invoke("config", CANARY).err.endswith("Error: There is no such command.\n")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["serv"], "There is no such command; did you mean 'serve'?"),
        (["serve", "--prot", "1"], "There is no such option; did you mean '--port'?"),
    ],
)
def test_a_misspelt_name_has_a_hint(wats, arguments: list[str], hint: str) -> None:
    assert hint in wats.invoke(*arguments).err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["serve", "--port", CANARY], "'--port': Must be a whole number."),
        (["serve", f"--workers={CANARY}"], "'--workers': Must be a whole number."),
        (["serve", f"--sandbox={CANARY}"], "'--sandbox' does not take a value."),
        (["simulate", "--duplicates", CANARY], "Must be a number in the range 0<=x<=1."),
        (["simulate", "--duplicates", "7"], "Must be a number in the range 0<=x<=1."),
        (["status", "--url", CANARY], "Must be an http or https URL"),
        (["token", "--env", CANARY], "Must be the name of an environment variable."),
        (["database", "copy", CANARY, CANARY], "must begin with 'sqlite:///'"),
    ],
)
def test_a_value_that_cannot_be_used_is_not_repeated(
    wats, arguments: list[str], reason: str
) -> None:
    result = wats.invoke(*arguments)

    assert (result.code, result.out) == (1, "")
    assert reason in result.err
    assert CANARY not in result.err


@pytest.mark.parametrize(
    ("words", "completion"),
    [
        ("wats serve --port 1 --port 2 --sand", "--sandbox"),
        ("wats serve --prot 1 --sand", "--sandbox"),
        ("wats serv", "serve"),
    ],
)
def test_a_shell_completes_a_command_line_that_is_not_valid_yet(
    words: str, completion: str
) -> None:
    place = str(len(words.split()) - 1)
    environ = {"_WATS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": place}

    result = CliRunner().invoke(main, prog_name="wats", env=environ)

    assert result.stdout == f"plain,{completion}\n"
