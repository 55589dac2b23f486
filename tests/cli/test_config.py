import json

import pytest


@pytest.mark.parametrize("option", [[], ["--config"]], ids=["argument", "option"])
def test_a_good_config_is_shown_without_its_secrets(wats, option) -> None:
    result = wats.invoke("config", "validate", *option, str(wats.config))

    assert (result.code, result.err) == (0, "")
    first, *shown, last = result.out.splitlines()
    assert (first, last) == ("config valid", "profiles: 1")
    assert json.loads("\n".join(shown))["auth"] == {"accessToken": {"env": "[REDACTED]"}}
    assert "canary" not in result.out
    assert "WATS_" not in result.out


def test_a_config_can_be_checked_where_there_are_no_secrets(wats) -> None:
    result = wats.invoke("config", "validate", str(wats.config), environ={})

    assert result.code == 0


def test_every_mistake_is_reported_together_and_without_values(wats) -> None:
    wats.write(
        graph={"apiVersion": "a-canary", "baseUrl": "http://canary.example"},
        service={
            "host": "127.0.0.1",
            "prot": "a-canary",
            "port": "a-canary",
            "apiPrefix": "/api",
            "bearerToken": "a-canary-in-clear",
        },
    )

    result = wats.invoke("config", "validate", str(wats.config))

    assert (result.code, result.out) == (1, "")
    for path in ("graph.apiVersion", "graph.baseUrl", "service.port", "service.bearerToken"):
        assert f"$.profiles.local.{path}: " in result.err
    assert "'port'" in result.err
    assert "canary" not in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("missing.yaml", None),
        ("wats.toml", "version = 1"),
        ("broken.yaml", "a: [canary"),
        ("broken.json", '{"canary": '),
        ("empty.yaml", ""),
        ("list.json", "[1]"),
    ],
)
def test_a_file_that_is_not_a_config_is_refused(wats, name, text) -> None:
    if text is not None:
        (wats.folder / name).write_text(text)

    result = wats.invoke("config", "validate", str(wats.folder / name))

    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: ")
    assert "canary" not in result.err
    assert "Traceback" not in result.err


def test_a_config_that_cannot_be_read_is_named_with_the_cause(wats) -> None:
    path = wats.folder / "missing.yaml"

    result = wats.invoke("config", "validate", str(path))

    assert f"'{path}' cannot be read: no such file. (file_read_error)" in result.err


@pytest.mark.parametrize("arguments", [[], ["a.yaml", "--config", "b.yaml"]], ids=["none", "two"])
def test_one_file_must_be_named(wats, arguments) -> None:
    result = wats.invoke("config", "validate", *arguments)

    assert result.code != 0
    assert "Give the path of exactly one config file." in result.err
