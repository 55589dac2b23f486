import sys
from importlib.abc import SourceLoader
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_loader
from pathlib import Path

import pytest

import wats
from wats.references import ImportFailed, import_reference

MODULES = {
    "broken_syntax": "x = 1\ndef (\n",
    "raises": "x = 1\nraise ValueError('a canary')\n",
    "leaves": "raise SystemExit('a canary')\n",
    "needs": "import no_such_library.part\n",
    "inner/__init__": "",
    "email": "def f(): ...\n",
    "good": "class Service:\n    handle = 7\n",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inner").mkdir()
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_reference_names_an_attribute_of_a_module() -> None:
    assert import_reference("good:Service.handle") == 7


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("no_such_module_at_all:f", "there is no module 'no_such_module_at_all'"),
        ("inner.none:f", "there is no module 'inner.none'"),
        ("good.part:f", "there is no module 'good.part'"),
        ("good.py:f", "there is no module 'good.py'; the name of a module has no '.py'"),
        ("needs:f", "it imports the module 'no_such_library', which is not installed"),
        ("broken_syntax:f", "syntax error in '{folder}/broken_syntax.py', line 2"),
        ("raises:f", "ValueError in '{folder}/raises.py', line 2"),
        ("leaves:f", "SystemExit in '{folder}/leaves.py', line 1"),
        ("good:f", "'good' has no 'f'"),
        ("good:Service.f", "'good' has no 'Service.f'"),
        ("email:f", "'email' is a module of Python, and has no 'f'"),
    ],
)
def test_a_reference_that_cannot_be_imported_is_explained(
    folder: Path, reference: str, reason: str
) -> None:
    with pytest.raises(ImportFailed) as caught:
        import_reference(reference)

    assert str(caught.value) == reason.format(folder=folder)


def test_a_module_whose_file_cannot_be_read_is_named_with_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> ModuleSpec | None:
            loader = SourceFileLoader(name, str(folder))  # a folder, which root cannot read either
            return spec_from_loader(name, loader) if name == "unreadable" else None

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])

    with pytest.raises(ImportFailed) as caught:
        import_reference("unreadable:f")

    assert str(caught.value) == f"{str(folder)!r} cannot be read: IsADirectoryError"


def test_a_module_next_to_the_package_is_named_with_its_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = f"{Path(wats.__file__).parent}_orders.py"

    class Loader(SourceLoader):
        def get_filename(self, fullname: str) -> str:
            return path

        def get_data(self, path: str) -> bytes:
            return b"raise ConnectionError"

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> ModuleSpec | None:
            return spec_from_loader(name, Loader()) if name == "wats_orders" else None

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])

    with pytest.raises(ImportFailed) as caught:
        import_reference("wats_orders:f")

    assert str(caught.value) == f"ConnectionError in {path!r}, line 1"
