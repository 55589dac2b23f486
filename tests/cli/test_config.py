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


def test_two_files_are_an_error(wats) -> None:
    result = wats.invoke("config", "validate", "a.yaml", "--config", "b.yaml")

    assert result.code != 0
    assert "Give the path of one config file." in result.err


def test_the_config_of_the_working_directory_is_checked(wats, monkeypatch) -> None:
    wats.config.rename(wats.folder / "wats.config.yaml")
    monkeypatch.chdir(wats.folder)

    assert wats.invoke("config", "validate").out.startswith("config valid\n")


def test_without_a_config_the_error_names_the_ways_to_give_one(wats, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    result = wats.invoke("config", "validate")

    assert result.code == 1
    assert "WATS_CONFIG" in result.err


def test_a_valid_config_is_printed_as_one_json_document(wats) -> None:
    result = wats.invoke("config", "validate", str(wats.config), "--json")

    assert (result.code, result.err) == (0, "")
    shown = json.loads(result.out)
    assert list(shown) == ["valid", "issues", "defaultProfile", "profiles"]
    assert (shown["valid"], shown["issues"], shown["defaultProfile"]) == (True, [], "local")
    assert shown["profiles"]["local"]["auth"] == {"accessToken": {"env": "[REDACTED]"}}
    assert "canary" not in result.out


def test_the_mistakes_of_a_config_are_printed_as_one_json_document(wats) -> None:
    wats.write(graph={"apiVersion": "a-canary", "baseUrl": "https://graph.example"})

    result = wats.invoke("config", "validate", str(wats.config), "--json")

    assert (result.code, result.err) == (1, "")
    assert json.loads(result.out) == {
        "valid": False,
        "issues": [
            {
                "code": "invalid_api_version",
                "path": "$.profiles.local.graph.apiVersion",
                "reason": "Must be a version such as 'v25.0'.",
            }
        ],
    }
