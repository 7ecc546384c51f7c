"""`python -m jobs.bench`: measurements for those who work on the project; no other module of the product imports them.

In: videos, bundles and settings from the command line. Out: a table or JSON lines on standard output.
"""
