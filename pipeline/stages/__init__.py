"""What Ray calls, and nothing else: the functions behind the numbered stages of `pipeline/flow.py`.

In: Arrow tables of work rows or chunks (schema.FLOW). Out: chunks, then accounts of what was written.
"""
