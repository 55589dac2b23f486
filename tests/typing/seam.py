"""Calls of telemetry that a type checker must refuse. Read by mypy, never run.

A line that were accepted would have an ignore too many, which is an error as well.
"""

from wats.telemetry import EndpointFamily, Method, Outcome, Telemetry


def leak(telemetry: Telemetry, sender: str) -> None:
    telemetry.http.request(0, sender, 200, 0.1)  # type: ignore[arg-type]
    telemetry.http.request(sender, Method.GET, 200, 0.1)  # type: ignore[arg-type]
    telemetry.webhooks.rejected(sender)  # type: ignore[arg-type]
    telemetry.webhooks.lag(sender)  # type: ignore[arg-type]
    telemetry.http.auth_failure(sender)  # type: ignore[arg-type]
    telemetry.graph.error(sender)  # type: ignore[arg-type]
    telemetry.messages.send_outcome(EndpointFamily.MESSAGES, sender)  # type: ignore[arg-type]
    telemetry.store.inbox_depth(sender, 1)  # type: ignore[arg-type]
    telemetry.service.event(sender)  # type: ignore[arg-type]
    telemetry.messages.send_outcome(EndpointFamily.MESSAGES, Outcome.SUCCESS, sender)  # type: ignore[arg-type]
    telemetry.messages.delivered(0.1, sender)  # type: ignore[call-arg]
