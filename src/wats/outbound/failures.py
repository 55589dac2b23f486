"""The report of a failed Graph call: a count under a name, and a line without free text."""

from wats.errors import GraphError
from wats.telemetry import Telemetry
from wats.telemetry.sinks.isolation import Log


def report_graph_failure(error: GraphError, *, telemetry: Telemetry, log: Log) -> None:
    """Count *error* in the error ledger, then log Meta's numbers and names for it."""
    said = error.diagnostics
    if error.is_reported:
        telemetry.errors.record_name(said.name)
    else:
        telemetry.errors.record(error)
    log(
        {
            "event": "wats.graph.failure",
            "metaCode": said.meta_code,
            "metaSubcode": said.meta_subcode,
            "metaType": said.meta_type,
            "fbtraceId": said.fbtrace_id,
        }
    )
