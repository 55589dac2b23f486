"""The pages of the documentation, as the tests read them."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

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


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of *page* in *language*."""
    return [block for found, block in blocks_in(PAGES[page]) if found == language]


def blocks_in(text: str) -> list[tuple[str, str]]:
    """Return every block in *text* with its language, in their order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def commands_in(block: str) -> list[str]:
    """Return the commands of a block for the shell, each as one line."""
    return block.replace("\\\n", " ").splitlines()


def spans(text: str) -> list[str]:
    """Return the code spans of *text*, without its blocks."""
    without_blocks = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", without_blocks)


def lay_out(folder: Path) -> set[str]:
    """Write the examples of the pages into *folder*, and return the names of the modules in it.

    Examples are written to the files that their first lines name, the README's config to the name
    given in the README, and its secrets are those for tests.
    """
    names = set()
    for page in ("README.md", "docs/handlers.md", "docs/telemetry.md"):
        for block in blocks(page, "python"):
            name = re.match(r"# (\w+)\.py\n", block)
            assert name is not None, "The first line of an example names its file."
            names.add(name[1])
            (folder / f"{name[1]}.py").write_text(block)
    (folder / "wats.config.yaml").write_text(blocks("README.md", "yaml")[0])
    (folder / ".env").write_text("".join(f"{key}={SECRETS[key]}\n" for key in SECRETS))
    return names
