"""The runtime of a bundle on a device: batches, placement and precision, threads, Winograd convolutions, folded norms.

In: chunks (schema.FLOW) and the loaded networks. Out: rows of the slots as Arrow, and the seconds of each model.
"""
