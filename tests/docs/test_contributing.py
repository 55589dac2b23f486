"""The commands of CONTRIBUTING.md that generate files."""

import shutil
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT
from tests.walk import Reader, section

pytestmark = pytest.mark.long

FOLDERS = ("src", "docs", "operators")


def files_in(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes()
        for name in FOLDERS
        for path in (folder / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_stale_generated_files_are_renewed_by_the_commands_that_are_shown(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, reader.folder / name)
    shutil.copytree(ROOT / "tests/corpus", reader.folder / "tests/corpus")
    shutil.copy(ROOT / "ARCHITECTURE.md", reader.folder)
    shutil.copy(ROOT / "pyproject.toml", reader.folder)
    before = files_in(reader.folder)
    page = reader.folder / "docs/http-api.md"
    page.write_text(page.read_text().replace("| GET |", "| stale |"))
    (reader.folder / "operators/dashboard.json").write_text("{}")

    reader.succeed(section(PAGES["CONTRIBUTING.md"], "Documentation"))

    assert files_in(reader.folder) == before
