"""The cost of wats, compared with alternatives. `make bench`; see docs/benchmarks.md."""
