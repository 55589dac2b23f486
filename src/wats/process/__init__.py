"""The service as one or more operating system processes: server, supervisor, shutdown, logging."""
