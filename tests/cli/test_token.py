import re

import pytest

from wats.config import parse_env_file
from wats.config.checks import bearer_token


def test_a_token_is_printed_and_nothing_else(wats) -> None:
    result = wats.run("token", environ={})

    assert (result.code, result.err) == (0, "")
    assert re.fullmatch("[0-9a-f]{64}\n", result.out)


def test_every_token_is_new_and_none_is_weak(wats) -> None:
    tokens = {wats.invoke("token").out.strip() for _ in range(50)}

    assert len(tokens) == 50
    assert all(bearer_token.accept(token) for token in tokens)


def test_a_line_of_an_env_file_is_printed_if_a_variable_is_named(wats) -> None:
    result = wats.invoke("token", "--env", "WATS_TELEMETRY_TOKEN")

    ((name, value),) = parse_env_file(result.out).items()
    assert name == "WATS_TELEMETRY_TOKEN"
    assert bearer_token.accept(value) == value
    assert result.out == f"{name}={value}\n"


@pytest.mark.parametrize("name", ["", "9LIVES", "TWO WORDS", "A=B", "A\nB"])
def test_a_name_that_no_variable_has_is_refused(wats, name: str) -> None:
    result = wats.invoke("token", "--env", name)

    assert (result.code, result.out) == (1, "")
    assert "--env" in result.err


def test_a_service_with_a_weak_token_does_not_start(wats) -> None:
    environ = {**wats.environ, "WATS_SERVICE_BEARER_TOKEN": "a-weak-canary"}

    result = wats.run("serve", "--config", str(wats.config), environ=environ)

    assert (result.code, result.out) == (1, "")
    assert "$.profiles.local.service.bearerToken: " in result.err
    assert "'wats token'" in result.err
    assert "canary" not in result.err
