"""What there is to annotate: folders, tar shards and manifests, and which places may be opened.

In: a path or URI of any fsspec storage. Out: a `Corpus`, one row per clip with its fingerprint.
"""
