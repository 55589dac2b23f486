"""Series in shared memory, and their exposition for Prometheus."""
