"""Any fsspec storage, behind few functions: reading with retries, listing, and the lease of an output.

In: URIs and storage options. Out: bytes, open files, found files, and a held `Lease`.
"""
