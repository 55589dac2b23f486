from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from wats.cli.options import Credentials, credential_options

TOKEN = "a-telemetry-token-canary"


@click.command()
@credential_options
def show(credentials: Credentials) -> None:
    """Show the token, as no real command does."""
    click.echo(credentials.token().reveal())


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
