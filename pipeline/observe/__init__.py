"""What a run says of itself while it runs: metrics for Prometheus and lines of the log.

In: counts and durations of the stages. Out: `ray.util.metrics` and JSON lines on standard error.
"""
