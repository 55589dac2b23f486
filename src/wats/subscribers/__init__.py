"""HTTP endpoints as consumers of updates: requests, signatures, circuit breaker, addresses."""
