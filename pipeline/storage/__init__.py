"""Access to any fsspec storage: names and URIs, listing, reading, atomic writes, and the lease of an output.

In: URIs and storage options. Out: bytes, open files, listed files, and a held `Lease`.
"""
