"""Writes the table of keys into docs/configuration.md, between its two marks."""

import re
from pathlib import Path

from wats.config import markdown_table

PAGE = Path(__file__).with_name("configuration.md")


def render(page: str) -> str:
    """Return *page* with the table as it is now."""
    block = f"<!-- keys: begin -->\n{markdown_table()}\n<!-- keys: end -->"
    return re.sub(
        "<!-- keys: begin -->.*<!-- keys: end -->", lambda _: block, page, flags=re.DOTALL
    )


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text("utf-8")), "utf-8")
