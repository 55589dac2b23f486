import shutil
import subprocess
from pathlib import Path

from tests.pages import ROOT

PROGRAM = '#!/bin/sh\necho "$0 $*" >> programs\n'

PYTHON = """#!/bin/sh
mkdir -p .venv/bin
cp program .venv/bin/python
test -e has-ensurepip || { echo 'apt install python3-venv' >&2; exit 1; }
cp program .venv/bin/pip
cp program .venv/bin/uv
"""
"""Makes a virtual environment as Debian does, which has ensurepip in a package of its own."""


def test_the_set_up_succeeds_once_the_missing_part_of_python_is_installed(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements/dev.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name, script in {"program": PROGRAM, "python": PYTHON}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    command = ["make", "setup", f"PYTHON={tmp_path}/python", "VENV=.venv"]

    first = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    (tmp_path / "has-ensurepip").touch()
    second = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)

    assert (first.returncode, "apt install python3-venv" in first.stderr) == (2, True)
    assert second.returncode == 0
    assert (tmp_path / ".venv/bin/pip").exists()
    assert ".venv/bin/uv pip sync" in (tmp_path / "programs").read_text()
