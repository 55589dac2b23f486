"""The client of a running service, for `status`, `doctor` and `support-bundle`."""
