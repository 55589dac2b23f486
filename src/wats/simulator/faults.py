"""Graph's refusals, as exceptions of the simulator and in their wire format. No I/O."""

import secrets
from typing import Any, Final

from wats.simulator.bodies import DETAILS, error_title

_HIGHEST_CODE_OF_GRAPH: Final = 1000


class GraphFault(Exception):
    """A request that fails with one of Graph's errors."""

    def __init__(
        self,
        status: int,
        code: int,
        *,
        subcode: int | None = None,
        type_: str = "OAuthException",
        details: str = DETAILS,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(f"Graph error {code}")
        self.status = status
        self.code = code
        self.subcode = subcode
        self.type = type_
        self.details = details
        self.retry_after = retry_after

    def payload(self) -> dict[str, Any]:
        """Return the body. Its texts name the recipient where Meta's may do so."""
        error: dict[str, Any] = {
            "message": f"(#{self.code}) {error_title(self.code)}",
            "type": self.type,
            "code": self.code,
        }
        if self.subcode is not None:
            error["error_subcode"] = self.subcode
        if self.code >= _HIGHEST_CODE_OF_GRAPH:
            error["error_data"] = {"messaging_product": "whatsapp", "details": self.details}
        else:
            error["message"] += f" {self.details}"
        # Letters only: adjacent digits must not look like a phone number.
        trace = "".join(secrets.choice("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmn") for _ in range(22))
        return {"error": {**error, "fbtrace_id": "A" + trace}}


def invalid(details: str) -> GraphFault:
    """Return the refusal of an invalid request."""
    return GraphFault(400, 100, details=details)


def missing_object() -> GraphFault:
    """Return the refusal of an unknown id."""
    return GraphFault(
        400, 100, subcode=33, type_="GraphMethodException", details="No object has this id."
    )
