"""Sinks: isolation from their failures, buffering, and the sink for OpenTelemetry."""
