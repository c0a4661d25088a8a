"""Published benchmarks with their published splits, read where the user has put them."""
