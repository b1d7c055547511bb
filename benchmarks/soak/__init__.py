"""Visitors of all kinds at a server of their own, with faults, for as long as one likes: `python -m benchmarks.soak`."""
