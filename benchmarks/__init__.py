"""Measurements as commands: ``python -m benchmarks.<name>`` prints a small table."""
