import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["wats", "wats.adapters.pywa", "wats.errors", "wats.testing", "wats.simulator"]
)
def test_the_public_names_are_listed_once_and_there(module: str) -> None:
    names = importlib.import_module(module).__all__

    assert len(set(names)) == len(names)
    assert all(hasattr(importlib.import_module(module), name) for name in names)


def test_importing_the_package_reads_no_environment_and_starts_nothing() -> None:
    check = (
        "import os, sys, threading\n"
        "class Deaf(dict):\n"
        "    def __getitem__(self, key):\n"
        "        if str(key).startswith('WATS'): raise AssertionError(key)\n"
        "        return super().__getitem__(key)\n"
        "import aiohttp, uvicorn, uvloop, msgspec, yaml\n"
        "os.environ = Deaf(os.environ)\n"
        "def audit(event, args):\n"
        "    if event in {'socket.connect', 'socket.bind', 'sqlite3.connect'}:\n"
        "        raise AssertionError(event)\n"
        "sys.addaudithook(audit)\n"
        "from wats import *\n"
        "assert threading.active_count() == 1\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_to_import_the_package_loads_no_other_module_of_it() -> None:
    check = "import sys, wats; print(*(name for name in sys.modules if name.startswith('wats')))"

    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)

    assert sorted(done.stdout.split()) == ["wats", "wats.version"]


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nothing'"):
        importlib.import_module("wats").nothing  # noqa: B018
