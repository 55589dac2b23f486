"""The long description of the package: the README, with links that work outside the repository."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_RELATIVE_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)]+)\)")


class LongDescription(MetadataHookInterface):
    """Sets `readme`, for hatchling."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the README to *metadata*; its relative links become URLs below the homepage."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        base = metadata["urls"]["Homepage"]
        text = _RELATIVE_LINK.sub(rf"]({base}/\1)", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
