"""The report of a failed Graph call: a count under a name, and a line without free text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from wats.errors import GraphError
from wats.graph.parameters import renamed
from wats.log import Log
from wats.telemetry import Telemetry

OUTCOMES: Final = {False: "not_sent", True: "unknown"}
"""The outcome of a failed request, by whether it may have been carried out."""


def report_graph_failure(
    error: GraphError,
    *,
    telemetry: Telemetry,
    log: Log,
    names: Mapping[str, str] | None = None,
) -> None:
    """Count *error* in the error ledger, then log its cause, and Meta's numbers and names for it.

    If the caller's form of the request differs from Graph's, *names* has its names for Graph's
    paths, and *error* then holds the caller's path.
    """
    if names is not None:
        parameter = renamed(error.diagnostics.parameter, names)
        error.diagnostics = replace(error.diagnostics, parameter=parameter)
    said = error.diagnostics
    if error.is_reported:
        telemetry.errors.record_name(said.name)
    else:
        telemetry.errors.record(error)
    log(
        {
            "event": "wats.graph.failure",
            "outcome": OUTCOMES[error.may_have_happened],
            "cause": error.cause,
            "metaCode": said.meta_code,
            "metaSubcode": said.meta_subcode,
            "metaType": said.meta_type,
            "fbtraceId": said.fbtrace_id,
            "parameter": said.parameter,
        }
    )
