"""The pages of the documentation, as the tests read them."""

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import yaml

from wats.testing import APP_SECRET, BEARER_TOKEN, VERIFY_TOKEN

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
}
SECRETS = {
    "WATS_ACCESS_TOKEN": "an-access-token-for-tests",
    "WATS_VERIFY_TOKEN": VERIFY_TOKEN,
    "WATS_APP_SECRET": APP_SECRET,
    "WATS_SERVICE_BEARER_TOKEN": BEARER_TOKEN,
}
WEBHOOK = json.dumps(
    {
        "object": "whatsapp_business_account",
        "entry": [
            {
                "id": "123456789012345",
                "changes": [
                    {
                        "field": "messages",
                        "value": {
                            "messaging_product": "whatsapp",
                            "metadata": {"phone_number_id": "15551234567"},
                            "messages": [
                                {
                                    "id": "wamid.1",
                                    "from": "15550001234",
                                    "timestamp": "1790000000",
                                    "type": "text",
                                    "text": {"body": "Hi"},
                                }
                            ],
                        },
                    }
                ],
            }
        ],
    }
).encode()


def load(path: Path) -> ModuleType:
    """Import the module at *path*, which is on no path of packages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Block(NamedTuple):
    """A fenced block: its language, its text, its first line and the heading above it."""

    language: str
    text: str
    line: int
    heading: str

    @property
    def name(self) -> str:
        """The file that the first line names in a comment, or an empty text."""
        named = re.match(r"# ([\w.-]+\.(?:py|ya?ml|env))$", self.text.partition("\n")[0])
        return named[1] if named else ""


def blocks_of(text: str) -> list[Block]:
    """Return every block in *text*, in their order; those in lists without their indentation."""
    found: list[Block] = []
    heading, fence, number = "", None, 0
    for position, line in enumerate(text.splitlines(), start=1):
        mark = re.match(r"( *)```(\w*)$", line)
        if fence is None and mark:
            fence, number, body = mark, position, list[str]()
        elif fence is None:
            heading = line.lstrip("# ") if re.match("#+ ", line) else heading
        elif line == f"{fence[1]}```":
            block = "".join(f"{each.removeprefix(fence[1])}\n" for each in body)
            found.append(Block(fence[2], block, number, heading))
            fence = None
        else:
            body.append(line)
    return found


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of *page* in *language*."""
    return [block for found, block in blocks_in(PAGES[page]) if found == language]


def blocks_in(text: str) -> list[tuple[str, str]]:
    """Return every block in *text* with its language, in their order."""
    return [(block.language, block.text) for block in blocks_of(text)]


def commands_in(block: str) -> list[str]:
    """Return the commands of a block for the shell, each in one text.

    A line that ends in a backslash is joined with the next one. A quotation or a here-document may
    have several lines. Comments and blank lines are left out.
    """
    commands, pending = [], ""
    for line in block.replace("\\\n", " ").splitlines():
        pending += f"{line}\n"
        if _is_complete(pending):
            if shlex.split(pending, comments=True):
                commands.append(pending.rstrip("\n"))
            pending = ""
    assert not pending, f"The block ends within a command: {pending}"
    return commands


def _is_complete(command: str) -> bool:
    first, _, rest = command.partition("\n")
    if document := re.search(r"<<-?\s*['\"]?(\w+)", first):
        return document[1] in (line.strip() for line in rest.splitlines())
    try:
        shlex.split(command, comments=True)
    except ValueError:  # a quotation is open
        return False
    return True


def spans(text: str) -> list[str]:
    """Return the code spans of *text*, without its blocks."""
    without_blocks = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", without_blocks)


def example_config() -> str:
    """Return the first config of docs/configuration.md, with the simulator and the echo bot."""
    config = yaml.safe_load(blocks("docs/configuration.md", "yaml")[0])
    profile = config["profiles"][config["defaultProfile"]]
    profile["graph"]["baseUrl"] = "http://127.0.0.1:9900"
    profile["whatsapp"]["phoneNumberId"] = "15551234567"
    profile["handlers"] = ["orders:on_update"]
    text: str = yaml.safe_dump(config)
    return text


def lay_out(folder: Path) -> set[str]:
    """Write the examples of the pages into *folder*, and return the names of the modules in it.

    Examples are written to the files that their first lines name; the secrets are those for tests.
    """
    names = set()
    for page in ("README.md", "docs/handlers.md", "docs/telemetry.md", "docs/updates.md"):
        for block in blocks(page, "python"):
            name = re.match(r"# (\w+)\.py\n", block)
            assert name is not None, "The first line of an example names its file."
            names.add(name[1])
            (folder / f"{name[1]}.py").write_text(block)
    (folder / "wats.config.yaml").write_text(example_config())
    (folder / "wats.env").write_text("".join(f"{key}={SECRETS[key]}\n" for key in SECRETS))
    return names
