"""Servers that wats is measured against. Imports are minimal: memory counts too."""
