"""The functions and the actor that Ray calls, one module per numbered stage of `pipeline/flow.py`, and nothing else.

In: Arrow tables of work rows or chunks (schema.FLOW). Out: chunks, then accounts of what was written.
"""
