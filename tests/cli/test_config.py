import json

import pytest


@pytest.mark.parametrize("option", [[], ["--config"]], ids=["argument", "option"])
def test_a_good_config_is_shown_without_its_secrets(wats, option) -> None:
    told = wats.invoke("config", "validate", *option, str(wats.config))

    assert (told.code, told.err) == (0, "")
    first, *shown, last = told.out.splitlines()
    assert (first, last) == ("config valid", "profiles: 1")
    assert json.loads("\n".join(shown))["auth"] == {"accessToken": {"env": "[REDACTED]"}}
    assert "canary" not in told.out
    assert "WATS_" not in told.out


def test_a_config_can_be_checked_where_there_are_no_secrets(wats) -> None:
    told = wats.invoke("config", "validate", str(wats.config), environ={})

    assert told.code == 0


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

    told = wats.invoke("config", "validate", str(wats.config))

    assert (told.code, told.out) == (1, "")
    for path in ("graph.apiVersion", "graph.baseUrl", "service.port", "service.bearerToken"):
        assert f"$.profiles.local.{path}: " in told.err
    assert "'port'" in told.err
    assert "canary" not in told.err
    assert "Traceback" not in told.err


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

    told = wats.invoke("config", "validate", str(wats.folder / name))

    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("Error: ")
    assert "canary" not in told.err
    assert "Traceback" not in told.err
    assert str(wats.folder) not in told.err


@pytest.mark.parametrize("arguments", [[], ["a.yaml", "--config", "b.yaml"]], ids=["none", "two"])
def test_one_file_must_be_named(wats, arguments) -> None:
    told = wats.invoke("config", "validate", *arguments)

    assert told.code != 0
    assert "Give the path of exactly one config file." in told.err
