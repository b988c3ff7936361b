"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples on every run, and no time limit per example: the machines that run this are shared.
settings.register_profile(
    "lucid", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lucid")
