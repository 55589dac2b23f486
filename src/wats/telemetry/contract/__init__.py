"""The contract of `/metrics`: label values, labels and families."""
