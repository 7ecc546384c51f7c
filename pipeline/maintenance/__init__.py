"""Work on a finished output: erasing clips, people and sources, the quarantine, comparison of versions.

In: an output, under its lease where it is changed. Out: rewritten tables, tombstones, or metrics of a difference.
"""
