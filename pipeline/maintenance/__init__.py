"""Work on a finished output: erasing clips, people and sources, the quarantine, versions held against each other.

In: an output, under its lease where it is changed. Out: rewritten tables, tombstones, or metrics of a difference.
"""
