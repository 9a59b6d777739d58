"""Statistics of per-user results: intervals, tests and rank groups. Arrays in, numbers out; reads no file."""
