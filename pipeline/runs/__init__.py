"""The accounts of one run: its context, its ledger, its metrics and its record.

In: the plan and the accounts of written chunks. Out: outcomes per clip, metrics, and a file in `runs/`.
"""
