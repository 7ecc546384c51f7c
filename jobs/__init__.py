"""Command line and job entry points: parse, call `pipeline` and `actors`, print."""
