"""Calls of telemetry that a type checker must refuse. Read by mypy, never run.

A line that were accepted would have an ignore too many, which is an error as well.
"""

from wats.telemetry import EndpointFamily, Method, Outcome, Telemetry


def leak(telemetry: Telemetry, sender: str) -> None:
    telemetry.http_request(0, sender, 200, 0.1)  # type: ignore[arg-type]
    telemetry.http_request(sender, Method.GET, 200, 0.1)  # type: ignore[arg-type]
    telemetry.webhook_rejected(sender)  # type: ignore[arg-type]
    telemetry.webhook_lag(sender)  # type: ignore[arg-type]
    telemetry.auth_failure(sender)  # type: ignore[arg-type]
    telemetry.graph_error(sender)  # type: ignore[arg-type]
    telemetry.send_outcome(EndpointFamily.MESSAGES, sender)  # type: ignore[arg-type]
    telemetry.inbox_depth(sender, 1)  # type: ignore[arg-type]
    telemetry.event(sender)  # type: ignore[arg-type]
    telemetry.send_outcome(EndpointFamily.MESSAGES, Outcome.SUCCESS, sender)  # type: ignore[call-arg]
