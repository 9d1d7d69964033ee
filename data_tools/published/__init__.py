"""Published datasets and benchmarks: their forms, spaces and splits."""
