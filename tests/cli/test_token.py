import re

import pytest

from wats.config import parse_env_file
from wats.config.checks import bearer_token


def test_a_token_is_printed_and_nothing_else(wats) -> None:
    told = wats.run("token", environ={})

    assert (told.code, told.err) == (0, "")
    assert re.fullmatch("[0-9a-f]{64}\n", told.out)


def test_every_token_is_another_and_none_is_weak(wats) -> None:
    tokens = {wats.invoke("token").out.strip() for _ in range(50)}

    assert len(tokens) == 50
    assert all(bearer_token.accept(token) for token in tokens)


def test_a_line_of_an_env_file_is_printed_if_a_variable_is_named(wats) -> None:
    told = wats.invoke("token", "--env", "WATS_TELEMETRY_TOKEN")

    ((name, value),) = parse_env_file(told.out).items()
    assert name == "WATS_TELEMETRY_TOKEN"
    assert bearer_token.accept(value) == value
    assert told.out == f"{name}={value}\n"


@pytest.mark.parametrize("name", ["", "9LIVES", "TWO WORDS", "A=B", "A\nB"])
def test_a_name_that_no_variable_has_is_refused(wats, name: str) -> None:
    told = wats.invoke("token", "--env", name)

    assert (told.code, told.out) == (1, "")
    assert "--env" in told.err


def test_a_service_with_a_weak_token_does_not_start(wats) -> None:
    environ = {**wats.environ, "WATS_SERVICE_BEARER_TOKEN": "a-weak-canary"}

    told = wats.run("serve", "--config", str(wats.config), environ=environ)

    assert (told.code, told.out) == (1, "")
    assert "$.profiles.local.service.bearerToken: " in told.err
    assert "'wats token'" in told.err
    assert "canary" not in told.err
