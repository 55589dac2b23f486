from pathlib import Path

import pytest

from wats.process.reload import MAX_ENTRIES, stamps_of


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_python_files_of_a_folder_and_named_files_are_watched(tmp_path: Path) -> None:
    watched = [
        write(tmp_path / "code/orders.py"),
        write(tmp_path / "code/shop/stock.py"),
        write(tmp_path / "wats.config.yaml"),
    ]
    write(tmp_path / "code/notes.txt")

    stamps = stamps_of([tmp_path / "code", tmp_path / "wats.config.yaml"])

    assert set(stamps) == {str(each) for each in watched}


@pytest.mark.parametrize(
    "folder", [".git", ".venv", "__pycache__", "node_modules", "site-packages", "environment"]
)
def test_folders_without_sources_of_the_application_are_not_watched(
    tmp_path: Path, folder: str
) -> None:
    write(tmp_path / folder / "library.py")
    if folder == "environment":
        write(tmp_path / folder / "pyvenv.cfg")

    assert stamps_of([tmp_path]) == {}


def test_a_change_an_addition_and_a_removal_change_the_stamps(tmp_path: Path) -> None:
    path = write(tmp_path / "orders.py", "1")
    first = stamps_of([tmp_path])

    write(path, "12")
    second = stamps_of([tmp_path])
    other = write(tmp_path / "stock.py")
    third = stamps_of([tmp_path])
    other.unlink()

    assert first != second != third
    assert stamps_of([tmp_path]) == second


def test_files_that_do_not_exist_and_broken_links_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "gone.py").symlink_to("nowhere")

    assert stamps_of([tmp_path, tmp_path / "missing.yaml"]) == {}


def test_a_folder_that_links_to_itself_is_walked_once(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(tmp_path)
    write(tmp_path / "orders.py")

    assert set(stamps_of([tmp_path])) == {str(tmp_path / "orders.py")}


def test_the_number_of_watched_files_is_bounded(tmp_path: Path) -> None:
    one = write(tmp_path / "orders.py")

    assert len(stamps_of([one] * (MAX_ENTRIES + 1))) == 1
    assert stamps_of([tmp_path / "missing.py"] * MAX_ENTRIES + [one]) == {}
