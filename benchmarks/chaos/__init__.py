"""Sweeps that are killed at random moments and run again: ``python -m benchmarks.chaos``."""
