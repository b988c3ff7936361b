"""Measurements side by side with other libraries. Run as modules: ``python -m benchmarks.layers --help``."""
