"""The valid lines of the log: the keys that the documentation gives them, and no free text."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, get_args

from wats.errors import GraphCause
from wats.process.library_logging import LEVELS, LIBRARIES, OTHER
from wats.telemetry.contract.labels import TARGET_NAME
from wats.telemetry.contract.values import RejectionReason, UpdateKind
from wats.web.app import NOT_STARTED_HINT
from wats.web.ops.audit import Action

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"

_EVENT = re.compile(r"^\| `(wats\.[a-z.]+)` \| ((?:`\w+` ?)*)\| ", re.MULTILINE)
_KEY = re.compile(r"^\| `([a-z]\w+)` \| ", re.MULTILINE)

_NAME = "[A-Za-z_][A-Za-z0-9_]{0,79}"
_COUNT = "0|[1-9][0-9]{0,9}"
_CODE = "0|[1-9][0-9]{0,6}|null"

_MEMBER = r"[a-z_]+(?:\.[a-z_]+|\[[0-9]{1,2}\])*"

VALUES = {
    "action": "|".join(get_args(Action)),
    "at": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z",
    "cause": "|".join((*GraphCause, "null")),
    "consumer": TARGET_NAME.pattern,
    "count": _COUNT,
    "errorName": f"{_NAME}|null",
    "exitCode": "-?[0-9]{1,3}|null",
    "fbtraceId": "(?!.*[0-9]{7})(?=.*[A-Za-z])[A-Za-z0-9_-]{1,64}|null",
    "file": r"(?!.*[0-9]{7})[A-Za-z0-9_]{1,80}\.py|null",
    "handler": TARGET_NAME.pattern,
    "hint": re.escape(NOT_STARTED_HINT),
    "kind": "|".join(UpdateKind),
    "level": "|".join(LEVELS),
    "library": "|".join((*LIBRARIES, OTHER)),
    "line": f"{_COUNT}|null",
    "messages": _COUNT,
    "metaCode": _CODE,
    "metaSubcode": _CODE,
    "metaType": "[A-Za-z_]{0,55}(Exception|Error)|null",
    "method": "[a-z_]{1,40}",
    "outcome": "not_sent|unknown|accepted|deduped|success|error|sent|failed",
    "parameter": r"[a-z_]+(\.[a-z_0-9]+|\[[0-9]{1,2}\])*|[A-Za-z]{1,40}|null",
    "paths": f"{_MEMBER}(,{_MEMBER}){{0,4}}|null",
    "policy": "store|ignore|refuse",
    "reason": "|".join(RejectionReason),
    "seconds": _COUNT,
    "status": "[1-5][0-9]{2}|null",
    "subscriber": "[A-Za-z_][A-Za-z0-9_-]{0,39}",
    "suppressed": _COUNT,
    "updateId": "[0-9a-f]{12}",
    "updates": _COUNT,
    "worker": _COUNT,
}
"""The valid values of each key, as a pattern."""


@cache
def documented_events() -> dict[str, set[str]]:
    """Return the keys that the documentation gives each event in addition to the common ones."""
    rows = _EVENT.findall(PAGE.read_text("utf-8"))
    return {event: set(keys.replace("`", "").split()) for event, keys in rows}


def documented_keys() -> set[str]:
    """Return the keys that the documentation explains."""
    page = PAGE.read_text("utf-8")
    start = page.index("| Key | What it holds |")
    return set(_KEY.findall(page[start : page.index("\n\n", start)]))


def faults_of(line: str) -> list[str]:
    """Return the faults of a line of the log, without quoting it."""
    try:
        fields: dict[str, Any] = json.loads(line)
        keys = documented_events()[fields["event"]]
    except (ValueError, KeyError, TypeError):
        return ["is no event"]
    faults = []
    if fields.keys() != {"event", "at", *keys}:
        faults.append(f"{fields['event']} has other keys")
    for key in {*keys, "at"} & fields.keys():
        value = fields[key]
        text = value if isinstance(value, str) else json.dumps(value)
        if re.fullmatch(VALUES[key], text) is None:
            faults.append(f"{fields['event']} has a strange {key}")
    return faults
