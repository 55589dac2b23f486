"""The version of wats, by Semantic Versioning."""

__version__ = "0.1.0"
