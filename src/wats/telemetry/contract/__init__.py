"""The contract of `/metrics`: label values, labels, families, and their schema."""
