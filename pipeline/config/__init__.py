"""The settings: their meaning, the sources of their values, their text form, and the redaction of secrets.

In: a YAML file, `--set` assignments and environment variables. Out: a frozen `Config`.
"""
