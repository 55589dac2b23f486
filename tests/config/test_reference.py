import re
from pathlib import Path

import pytest

from wats.config import config_keys, markdown_table, parse_config
from wats.config.fields import FILE, PROFILE, Section
from wats.config.files import read_document

SOURCES = Path(__file__).parents[2] / "src/wats/config"
PAGE = (Path(__file__).parents[2] / "docs/configuration.md").read_text("utf-8")


def test_the_documented_keys_are_those_of_the_config() -> None:
    documented = PAGE.split("<!-- keys: begin -->\n")[1].split("\n<!-- keys: end -->")[0]

    assert documented == markdown_table(), "Run .venv/bin/python docs/generate.py."


@pytest.mark.parametrize("number", [0, 1])
def test_the_documented_files_can_be_used(tmp_path: Path, number: int) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(re.findall("```yaml\n(.*?)```", PAGE, flags=re.DOTALL)[number])

    assert parse_config(read_document(path)).default_profile == "production"


def test_every_code_is_documented() -> None:
    codes = {entry.code for entry in (*FILE, *PROFILE)}
    codes |= {key.code for entry in PROFILE if isinstance(entry, Section) for key in entry.keys}
    for path in SOURCES.glob("*.py"):
        codes |= set(re.findall(r'(?:_error|Issue|refuse)\(\s*"([a-z_]+)"', path.read_text()))

    assert {code for code in codes if f"`{code}`" not in PAGE} == set()


def test_keys_have_path_type_default_and_meaning() -> None:
    keys = {key.path: key for key in config_keys()}

    port = keys["profiles.NAME.service.port"]
    families = keys["profiles.NAME.telemetry.families"]
    assert (port.required, port.type) == (True, "a whole number from 1 to 65535")
    assert (families.required, families.default) == (False, "contract")
    assert all(key.meaning.endswith(".") for key in keys.values())
    assert len(keys) == len(config_keys())
