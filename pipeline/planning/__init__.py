"""The difference between what is wanted and what is stored, what it will take, and which versions are in force.

In: a corpus, wanted versions and the footers of an output. Out: a `Plan` of work rows, a forecast, `current.json`.
"""
