"""The reference of updates has an example of every content, and each example has this content."""

import json
import re
from datetime import UTC, datetime

from tests.pages import PAGES
from wats import Update, UpdateKind, content
from wats.inbound.content import CONTENT_TYPES
from wats.inbound.typed import ACCOUNT_CONTENTS, CONTENTS, TEMPLATE_CONTENTS

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
PAGE = PAGES["docs/updates.md"]
EXAMPLE = re.compile(r"^(?P<title>[^\n]+)\n\n```json\n(?P<item>.*?)\n```", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"`(\w+)`")


def examples() -> list[tuple[UpdateKind, list[str], Update]]:
    """Return the kind, the names in the title, and the item of every example as an update."""
    found = []
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:-1]:
        kind = UpdateKind(section.partition("\n")[0])
        for example in EXAMPLE.finditer(section):
            names = NAME.findall(example["title"])
            update = Update(
                key="0" * 32,
                kind=kind,
                field=names[0],
                waba_id="1",
                occurred_at=NOON,
                received_at=NOON,
                raw=json.loads(example["item"]),
            )
            found.append((kind, names, update))
    return found


def test_every_example_has_the_content_that_its_title_names() -> None:
    for _, names, update in examples():
        expected = [getattr(content, each) for each in names if hasattr(content, each)]

        assert [type(update.content)] == (expected or [type(None)])


def test_every_kind_and_every_content_of_it_has_an_example() -> None:
    shown: dict[UpdateKind, set[type]] = {kind: set() for kind in UpdateKind}
    for kind, _, update in examples():
        shown[kind].add(type(update.content))

    assert all(shown.values())
    assert {kind: each - {type(None)} for kind, each in shown.items()} == {
        kind: set(each) for kind, each in CONTENTS.items()
    }


def test_every_type_of_message_reply_and_field_has_an_example() -> None:
    names = {name for _, found, _ in examples() for name in found}

    assert {*CONTENT_TYPES.keys() - {"system"}, *ACCOUNT_CONTENTS, *TEMPLATE_CONTENTS} <= names
    assert {*content.Interactive.__struct_fields__[1:]} <= names


def test_the_table_of_classes_is_complete() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", PAGE.partition("## Classes")[2], re.MULTILINE)

    around = {"AnyContent", "Customer", "CustomerProfile", "Part"}
    assert {*listed} == {*content.__all__} - around
