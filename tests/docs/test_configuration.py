"""docs/configuration.md and docs/errors.md: their files, commands and output."""

import re
import stat
from pathlib import Path

import pytest
import yaml

from tests.pages import PAGES, blocks
from tests.settings import config_of
from tests.walk import CONFIG, SERVE, Reader, section
from wats.cli.init import SECRET_NAMES
from wats.config import config_keys, parse_config, parse_env_file

PAGE = PAGES["docs/configuration.md"]


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def keys_in(profile: object, path: str = "") -> set[str]:
    """Return the paths of the keys of a profile, with those of its sections in their place."""
    if isinstance(profile, list) and profile and "name" in profile[0]:
        (profile,) = profile
    if not isinstance(profile, dict) or not path.count(".") < 1 or {"env", "file"} & {*profile}:
        return {path}
    return {
        found
        for name, value in profile.items()
        for found in keys_in(value, f"{path}.{name}" if path else name)
    }


@pytest.mark.parametrize("number", [0, 1], ids=["required keys", "all keys"])
def test_the_config_files_that_are_shown_are_valid(reader: Reader, number: int) -> None:
    reader.write(CONFIG, blocks("docs/configuration.md", "yaml")[number])

    said = reader.run(f"wats config validate {CONFIG}")

    assert said.code == 0, said.err
    assert said.out.startswith("config valid\n")


@pytest.mark.long
def test_the_config_files_that_are_shown_have_the_keys_that_the_page_promises() -> None:
    required, all_keys = (
        keys_in(yaml.safe_load(each)["profiles"]["production"])
        for each in blocks("docs/configuration.md", "yaml")[:2]
    )

    prefix = "profiles.NAME."
    known = [key for key in config_keys() if key.path.startswith(prefix)]
    assert {prefix + each for each in required} == {
        key.path
        for key in known
        if key.required and not re.search(r"\.(?:subscribers|pullers|numbers|tokens)\.", key.path)
    }
    assert {prefix + each for each in all_keys} == {
        key.path for key in known if ".tokens." not in key.path
    } - {"profiles.NAME.persistence.password"}


def test_the_numbers_and_tokens_that_are_shown_are_valid() -> None:
    numbers, tokens = (yaml.safe_load(each) for each in blocks("docs/configuration.md", "yaml")[2:])
    service = {**tokens["service"], "drainSeconds": 0}

    profile = parse_config(config_of(**numbers, service=service)).profiles["local"]

    assert [each.name for each in profile.all_numbers] == ["default", "berlin", "paris"]
    assert [each.scopes for each in profile.service.tokens] == [
        ("messages:read", "messages:write"),
        ("telemetry",),
    ]


@pytest.mark.long
def test_the_commands_for_tokens_write_secrets_that_the_service_accepts(reader: Reader) -> None:
    token_file, env_file = reader.folder / "secrets/telemetry-token", reader.folder / "wats.env"

    reader.succeed(section(PAGE, "Secrets"))
    new = parse_env_file(env_file.read_text())
    for each in (token_file, env_file):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    env_file.unlink()
    assert reader.run("wats init").code == 0
    reader.succeed(section(PAGE, "Secrets"))

    variables = parse_env_file(env_file.read_text())
    assert set(new) == {"WATS_NEXT_BEARER_TOKEN"}
    assert set(variables) == {*SECRET_NAMES, *new}
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    tokens = (token_file.read_text().strip(), variables["WATS_NEXT_BEARER_TOKEN"])
    assert all(len(token) == 64 for token in tokens)


def test_the_env_file_that_is_shown_has_the_documented_values() -> None:
    (shown,) = blocks("docs/configuration.md", "dotenv")

    variables = parse_env_file(shown)

    assert {name: value for name, value in variables.items() if value} == {
        "WATS_ACCESS_TOKEN": "an-example-and-no-token",
        "WATS_APP_SECRET": "quotes of either kind keep what is in them",
        "WATS_VERIFY_TOKEN": "as it is # this too",
    }


def test_the_mistakes_that_are_shown_are_reported_in_these_words(reader: Reader) -> None:
    config = yaml.safe_load(blocks("docs/configuration.md", "yaml")[0])
    profile = config["profiles"]["production"]
    profile["grpah"] = {}
    profile["service"]["port"] = 0
    (reader.folder / CONFIG).write_text(yaml.safe_dump(config))

    said = reader.run(f"wats config validate {CONFIG}")

    assert said.code == 1
    assert [said.err] == blocks("docs/configuration.md", "text")


def test_a_database_that_cannot_be_opened_is_reported_in_the_shown_words(reader: Reader) -> None:
    reader.prepare()
    reader.configure({"persistence": {"url": "sqlite:///data/wats.db"}})

    said = reader.run(SERVE)

    assert said.code == 1
    assert [said.err] == blocks("docs/errors.md", "text")
