"""Adapters of clients from other libraries, each with an extra of its own."""
