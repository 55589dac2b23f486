"""The reader of the pages: what lasts from one command to the next, and what it starts with."""

from pathlib import Path

import pytest

from tests.walk import Reader


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def test_variables_and_the_working_folder_last(reader: Reader) -> None:
    page = """```sh
mkdir inner; cd inner
ONE="it's \\
one"; export TWO=2
```
```sh
echo "$ONE" $TWO $(sh -c 'echo "${ONE-unset}$TWO"')
pwd
```
"""

    *_, echoed, folder = reader.succeed(page)

    assert echoed.out == "it's  one 2 unset2\n"
    assert folder.out == f"{reader.folder}/inner\n"


def test_a_command_that_fails_ends_the_walk(reader: Reader) -> None:
    page = "```sh\nfalse\ntouch later\n```\n"

    with pytest.raises(AssertionError, match="false"):
        reader.succeed(page)

    assert not (reader.folder / "later").exists()


def test_the_environment_has_no_variables_of_the_tests(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATS_ACCESS_TOKEN", "of-the-tests")

    said = reader.run("env")

    names = {line.partition("=")[0] for line in said.out.splitlines()}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == set(reader.environ)


def test_ports_of_the_pages_are_replaced_and_other_numbers_are_not(reader: Reader) -> None:
    placed = reader.placed("127.0.0.1:8787 18787 87870")

    assert placed == f"{reader.url.removeprefix('http://')} 18787 87870"
