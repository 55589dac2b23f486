"""The public name of the sink for OpenTelemetry, as a config file or an application imports it."""

from wats.extras import install_command

try:
    from wats.telemetry.sinks.opentelemetry import OtelSink, from_environment
except ModuleNotFoundError as error:
    if install := install_command(error):
        error.add_note(f"Run: {install}")
    raise

__all__ = ["OtelSink", "from_environment"]
