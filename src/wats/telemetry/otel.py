"""The public name of the sink for OpenTelemetry, as a config file or an application imports it."""

from wats.telemetry.sinks.opentelemetry import OtelSink, from_environment

__all__ = ["OtelSink", "from_environment"]
