"""Servers that wats is measured against. Each imports no more than it needs: memory counts too."""
