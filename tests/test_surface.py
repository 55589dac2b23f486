import difflib

from tests.surface import COMMAND, RECORD, SECTIONS, surface


def test_the_public_surface_is_as_recorded() -> None:
    recorded, found = RECORD.read_text("utf-8").splitlines(), surface().splitlines()

    changes = difflib.unified_diff(recorded, found, "recorded", "found", lineterm="", n=0)
    difference = "\n".join(changes)
    assert not difference, f"If you meant this change, run {COMMAND}:\n{difference}"


def test_every_section_has_lines_and_none_holds_an_address_of_an_object() -> None:
    sections = RECORD.read_text("utf-8").split("\n\n")

    assert [section.splitlines()[0] for section in sections] == [f"# {name}" for name in SECTIONS]
    assert all(len(section.splitlines()) > 10 for section in sections)
    assert " at 0x" not in "".join(sections)
