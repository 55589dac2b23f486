from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from wats.cli.options import ServiceAccess, service_options

TOKEN = "a-telemetry-token-canary"


@click.command()
@service_options
def show(access: ServiceAccess) -> None:
    """Show the token, as no real command does."""
    click.echo(access.token().reveal())


@click.command()
@service_options
def where(access: ServiceAccess) -> None:
    """Show the URL of the service."""
    click.echo(access.url())


@pytest.fixture
def run(wats) -> Callable[..., Result]:
    def run(*arguments: str, stdin: str | None = None, **environ: str) -> Result:
        return CliRunner().invoke(show, arguments, input=stdin, env=environ)

    return run


SECRETS = {
    "WATS_ACCESS_TOKEN": "an-access-token-canary",
    "WATS_VERIFY_TOKEN": "a-verify-token-canary",
    "WATS_APP_SECRET": "an-app-secret-canary",
    "WATS_SERVICE_BEARER_TOKEN": "a-service-token-canary",
}


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_token_is_in_a_file(run, tmp_path: Path, ending) -> None:
    (tmp_path / "token").write_bytes((TOKEN + ending).encode())

    assert run("--token-file", str(tmp_path / "token")).output == f"{TOKEN}\n"


def test_a_token_is_read_from_stdin(run) -> None:
    assert run("--token-file", "-", stdin=f"{TOKEN}\n").output == f"{TOKEN}\n"


def test_a_token_is_in_the_environment(run) -> None:
    assert run("--token-env", "SCRAPER", SCRAPER=TOKEN).output == f"{TOKEN}\n"


def test_the_token_of_the_config_is_that_of_telemetry_if_it_has_one(run, wats) -> None:
    assert run("--config", str(wats.config), **SECRETS).output == "a-service-token-canary\n"
    wats.write(telemetry={"bearerToken": [{"env": "SCRAPER"}, {"env": "WATS_APP_SECRET"}]})

    result = run("--config", str(wats.config), **SECRETS, SCRAPER=TOKEN)

    assert result.output == f"{TOKEN}\n"


def test_a_token_from_an_option_takes_precedence_over_the_config(run, wats) -> None:
    result = run("--config", str(wats.config), "--token-env", "SCRAPER", SCRAPER=TOKEN)

    assert result.output == f"{TOKEN}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--token-env", "SCRAPER", "--token-file", "x"],
        ["--token-env", "NOT_SET"],
        ["--token-env", TOKEN],
        ["--token-file", "nowhere-canary"],
        ["--token-file", "."],
        ["--token-file", "blank"],
        ["--token-file", "words"],
        ["--token-file", "latin"],
    ],
)
def test_no_token_is_an_error_that_shows_none(run, tmp_path: Path, monkeypatch, arguments) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blank").write_text("\n")
    (tmp_path / "words").write_text("two canaries\n")
    (tmp_path / "latin").write_bytes(b"canary\xff")

    result = run(*arguments, SCRAPER=TOKEN)

    assert result.exit_code == 1
    assert "--token-file" in result.output or "--token-env" in result.output
    assert "canar" not in result.output
    assert result.exc_info is not None
    assert result.exc_info[0] is SystemExit


def test_a_config_that_cannot_be_used_is_reported(run, wats) -> None:
    result = run("--config", str(wats.config), WATS_APP_SECRET="")

    assert result.exit_code == 1
    assert "missing_secret" in result.output
    assert "With --token-file or --token-env, no secret of the config is read." in result.output


@pytest.fixture
def folder(wats, monkeypatch) -> Path:
    """A working directory with a config under the name that is found."""
    monkeypatch.chdir(wats.folder)
    monkeypatch.delenv("WATS_CONFIG", raising=False)
    wats.config.unlink()
    wats.config = wats.folder / "wats.config.yaml"
    wats.write()
    folder: Path = wats.folder
    return folder


def ask(*arguments: str, **environ: str) -> str:
    return CliRunner().invoke(where, arguments, env=environ).output


def test_the_config_of_the_working_directory_is_found(folder, run) -> None:
    assert ask() == "http://127.0.0.1:8787\n"
    assert run(**SECRETS).output == "a-service-token-canary\n"


def test_a_variable_names_the_config_and_an_option_takes_precedence(folder, wats) -> None:
    text = wats.config.read_text()
    for name, port in (("one.json", "8001"), ("two.json", "8002")):
        (folder / name).write_text(text.replace("8787", port))

    assert ask(WATS_CONFIG="one.json") == "http://127.0.0.1:8001\n"
    assert ask("--config", "two.json", WATS_CONFIG="one.json") == "http://127.0.0.1:8002\n"


def test_a_variable_that_names_no_file_is_an_error_with_its_path(folder) -> None:
    assert "'elsewhere.yaml' cannot be read: no such file." in ask(WATS_CONFIG="elsewhere.yaml")


def test_without_config_and_url_the_error_names_all_ways_to_give_one(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WATS_CONFIG", raising=False)

    for name in ("--url", "--config", "WATS_CONFIG", "wats.config.yaml", "wats init"):
        assert name in " ".join(ask().split())


def test_a_url_needs_no_config(folder) -> None:
    (folder / "wats.config.yaml").write_text("canary")

    assert ask("--url", "https://gateway.example/wats/") == "https://gateway.example/wats\n"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8787"),
        ("::", "http://[::1]:8787"),
        ("::1", "http://[::1]:8787"),
        ("10.0.0.7", "http://10.0.0.7:8787"),
    ],
)
def test_the_url_of_a_service_is_one_at_which_it_can_be_reached(folder, wats, host, url) -> None:
    wats.config.write_text(wats.config.read_text().replace('127.0.0.1", "port', f'{host}", "port'))

    assert ask() == f"{url}\n"


def test_the_env_file_next_to_the_config_is_found(folder, run) -> None:
    lines = "".join(f"{name}={value}\n" for name, value in SECRETS.items())
    (folder / "wats.env").write_text(lines)

    assert run().output == "a-service-token-canary\n"


def test_an_env_file_that_does_not_exist_is_named_if_a_secret_is_missing(
    folder, run, monkeypatch
) -> None:
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)

    without = run()
    (folder / "wats.env").write_text("OTHER=value\n")
    with_file = run()

    missing = "The configuration is invalid. No env file was read: 'wats.env' does not exist.\n"
    assert (without.exit_code, with_file.exit_code) == (1, 1)
    assert missing in without.output
    assert "No env file" not in with_file.output
    assert "missing_secret" in with_file.output


def test_an_env_file_that_is_named_replaces_the_one_that_is_found(folder, run) -> None:
    lines = "".join(f"{name}={value}\n" for name, value in SECRETS.items())
    (folder / "wats.env").write_text("not an env file\n")
    (folder / "other.env").write_text(lines)

    assert run("--env-file", "other.env").output == "a-service-token-canary\n"


@pytest.mark.parametrize(
    "url", ["http://user:canary@127.0.0.1", "ftp://127.0.0.1", "canary", "http://127.0.0.1/?canary"]
)
def test_a_url_that_is_invalid_is_not_shown(url) -> None:
    shown = ask("--url", url)

    assert "--url" in shown
    assert "canary" not in shown
