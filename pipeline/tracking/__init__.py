"""From the faces of a clip to tracks.

In: stored boxes, scores and embeddings of a clip's frames. Out: one row per track and the track of each face.
"""
