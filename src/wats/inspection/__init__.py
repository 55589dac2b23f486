"""The client of a running service: what `status`, `doctor` and `support-bundle` read from it."""
