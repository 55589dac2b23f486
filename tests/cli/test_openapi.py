import json
import subprocess
import sys

import pytest
from openapi_spec_validator import validate

from wats.version import __version__


def test_the_document_is_complete_and_valid_without_any_secret(wats) -> None:
    result = wats.run("openapi", "--config", str(wats.config), environ={})

    assert (result.code, result.err) == (0, "")
    document = json.loads(result.out)
    validate(document)
    assert document["info"]["version"] == __version__
    assert document["servers"] == [{"url": "http://127.0.0.1:8787"}]
    for path in ("/metrics", "/webhooks/whatsapp", "/api/messages/text"):
        assert path in document["paths"]
    assert "/api/groups" not in document["paths"]


def test_groups_are_in_the_document_when_they_are_enabled(wats) -> None:
    wats.write(groups={"enabled": True})

    document = json.loads(wats.invoke("openapi", "--config", str(wats.config)).out)

    assert "/api/groups/{groupId}/participants" in document["paths"]


def test_the_document_goes_to_a_new_file(wats) -> None:
    out = wats.folder / "openapi.json"
    command = ("openapi", "--config", str(wats.config), "--out", str(out))

    result, again = wats.invoke(*command), wats.invoke(*command)

    assert (result.code, result.out, result.err) == (0, "", "")
    assert json.loads(out.read_bytes())["openapi"] == "3.1.0"
    assert (again.code, again.out) == (1, "")
    assert again.err == f"Error: {str(out)!r} cannot be written: the file exists already.\n"


@pytest.mark.parametrize("arguments", [[], ["--profile", "canary"]], ids=["no-file", "no-profile"])
def test_without_a_usable_config_there_is_no_document(wats, arguments) -> None:
    config = ["--config", str(wats.config)] if arguments else []

    result = wats.invoke("openapi", *config, *arguments)

    assert result.code != 0
    assert result.out == ""
    assert "canary" not in result.err


def test_the_description_of_the_api_needs_no_docstrings(wats) -> None:
    command = [sys.executable, "-OO", "-m", "wats", "openapi", "--config", str(wats.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["paths"]
