"""The difference between the desired and the stored annotations, its estimated time and cost, and current versions.

In: a corpus, desired versions and the footers of an output. Out: a `Plan` of work rows, a forecast, `current.json`.
"""
