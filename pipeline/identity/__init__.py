"""From tracks to people: neighbors, clustering, stable ids and their lineage, corrections by hand, scores.

In: tracks with their embeddings, the identities before, the user's decisions. Out: a snapshot of `tracks`,
`identities`, `lineage` and `ambiguous_pairs`.
"""
