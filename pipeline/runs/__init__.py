"""One run's books: what was asked, what has been finished, and the record that stays of it.

In: the plan and the accounts of written chunks. Out: outcomes per clip, metrics, and a file in `runs/`.
"""
