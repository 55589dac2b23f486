"""What wats costs, measured beside what else there is. `make bench`; see docs/benchmarks.md."""
