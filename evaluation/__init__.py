"""One file per benchmark, and what the benchmarks share."""
