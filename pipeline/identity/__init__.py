"""From tracks to people: neighbors, clustering, stable ids and their lineage, overrides by hand, scores.

In: tracks with their embeddings, the previous snapshot, the user's overrides. Out: a snapshot of `tracks`,
`identities`, `lineage` and `ambiguous_pairs`.
"""
