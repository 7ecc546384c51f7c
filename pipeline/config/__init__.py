"""The settings: what each means, where its value comes from, how it is shown and what of it is hidden.

In: a YAML file, `--set` assignments and environment variables. Out: a frozen `Config`.
"""
