import json
import re
from pathlib import Path
from typing import Any

import pytest

import wats.config
from wats.config import (
    choose_profile,
    load_config,
    parse_config,
    read_config,
    redact,
    with_overrides,
)
from wats.errors import ConfigError
from wats.privacy import Secret


@pytest.fixture
def config_file(tmp_path: Path, document: dict[str, Any]) -> Path:
    path = tmp_path / "wats.config.json"
    path.write_text(json.dumps(document))
    return path


def codes(error: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return [issue.code for issue in error.value.issues]


def test_a_file_and_an_environment_make_a_profile_and_its_secrets(
    config_file: Path, environ: dict[str, str]
) -> None:
    profile, secrets = load_config(config_file, environ=environ)

    assert profile.name == "local"
    assert secrets.bearer_tokens == (Secret("a-service-token-for-tests"),)


def test_the_environment_takes_precedence_over_the_env_file(
    config_file: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    env_file = tmp_path / ".env.local"
    env_file.write_text("WATS_ACCESS_TOKEN=from-file\nWATS_APP_SECRET=from-file\n")
    environ["WATS_APP_SECRET"] = " "  # blank: as if it were not set

    _, secrets = load_config(str(config_file), environ=environ, env_file=str(env_file))

    assert secrets.access_token == Secret("access")
    assert secrets.app_secrets == (Secret("from-file"),)


@pytest.mark.parametrize(
    ("in_folders", "used"),
    [(["work", "config"], "work"), (["work"], "work"), (["config"], "config"), ([], None)],
)
def test_an_env_file_is_in_the_working_directory_or_else_with_the_config_file(
    document: dict[str, Any],
    environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_folders: list[str],
    used: str | None,
) -> None:
    for name in ("work", "config"):
        (tmp_path / name).mkdir()
    for name in in_folders:
        (tmp_path / name / "a.env").write_text(f"WATS_APP_SECRET={name}")
    (tmp_path / "config" / "wats.json").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path / "work")
    del environ["WATS_APP_SECRET"]

    try:
        _, secrets = load_config("../config/wats.json", environ=environ, env_file="a.env")
        found: object = secrets.app_secrets
    except ConfigError as error:
        found = str(error.issues[0])

    missing = "env-file: 'a.env' cannot be read: no such file. (file_read_error)"
    assert found == ((Secret(used),) if used else missing)


def test_only_the_secrets_of_the_chosen_profile_are_needed(
    config_file: Path, document: dict[str, Any]
) -> None:
    other = json.loads(json.dumps(document["profiles"]["local"]).replace("WATS_", "OTHER_"))
    document["profiles"]["other"] = other
    config_file.write_text(json.dumps(document))
    environ = {
        f"OTHER_{name}": "a-word-for-everything"
        for name in ("ACCESS_TOKEN", "VERIFY_TOKEN", "APP_SECRET", "SERVICE_BEARER_TOKEN")
    }

    profile, secrets = load_config(config_file, environ=environ, profile="other")

    assert profile.name == "other"
    assert secrets.access_token == Secret("a-word-for-everything")


def test_an_unknown_profile_is_refused_with_the_names_of_the_others(
    config_file: Path, environ: dict[str, str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(config_file, environ=environ, profile="nowhere")

    assert codes(caught) == ["unknown_profile"]
    assert "nowhere" not in str(caught.value)
    assert "it has 'local'." in str(caught.value)


def test_mistakes_of_both_files_are_reported_together(
    config_file: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    document["version"] = 2
    config_file.write_text(json.dumps(document))
    env_file = tmp_path / ".env"
    env_file.write_text("nonsense")

    with pytest.raises(ConfigError) as caught:
        load_config(config_file, environ={}, env_file=env_file)

    assert codes(caught) == ["invalid_version", "invalid_env_file"]


def test_a_config_is_read_without_its_secrets(config_file: Path) -> None:
    config = read_config(config_file)

    assert choose_profile(config) is config.profiles["local"]


@pytest.mark.parametrize("port", [0, 1, 65_535])
def test_the_address_and_the_number_of_workers_can_be_overridden(
    document: dict[str, Any], port: int
) -> None:
    profile = choose_profile(parse_config(document))

    changed = with_overrides(profile, host="0.0.0.0", port=port, workers=4)

    assert (changed.service.host, changed.service.port) == ("0.0.0.0", port)
    assert changed.service.workers == 4
    assert changed.service.api_prefix == "/api"
    assert redact(changed)["service"]["port"] == port
    assert profile.service.port == 8787


def test_without_an_override_the_profile_is_unchanged(document: dict[str, Any]) -> None:
    profile = choose_profile(parse_config(document))

    assert with_overrides(profile) == profile


def test_every_override_that_cannot_be_used_is_refused(document: dict[str, Any]) -> None:
    profile = choose_profile(parse_config(document))

    with pytest.raises(ConfigError) as caught:
        with_overrides(profile, host="a b", port=65_536, workers=0)

    assert [(issue.code, issue.path) for issue in caught.value.issues] == [
        ("invalid_service_host", "--host"),
        ("invalid_service_port", "--port"),
        ("invalid_service_workers", "--workers"),
    ]


def test_the_environment_of_the_process_is_never_read() -> None:
    sources = Path(wats.config.__file__).parent.glob("*.py")

    assert not [path.name for path in sources if re.search(r"\bimport os\b", path.read_text())]
