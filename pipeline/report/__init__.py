"""Output for people: the report's content, timelines, histograms, and videos with the annotations drawn in.

In: the tables of an output and, for pictures, its videos. Out: a dictionary for the page, or a video file.
"""
