"""What is measured: tasks and their quality; latency, energy, size and bit operations on a device."""
