"""The service: all parts of a gateway, joined into one ASGI application."""

from wats.service.app import WatsApp
from wats.service.build import create_wats_service_app

__all__ = ["WatsApp", "create_wats_service_app"]
