"""A self-hosted gateway for the WhatsApp Business Cloud API."""

__version__ = "0.1.0"
