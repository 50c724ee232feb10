"""Measured latencies: the long table that this package reads and writes, and what profilers of runtimes write."""
