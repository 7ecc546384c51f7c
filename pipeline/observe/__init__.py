"""Observing a run: metrics for Prometheus and structured logs.

In: counts and durations of the stages. Out: `ray.util.metrics` and JSON lines on standard error.
"""
