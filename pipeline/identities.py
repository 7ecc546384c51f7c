"""Tracks of the corpus become identities: who is who.

    tracks        sorted by track_id: the order in which they come has no effect
        |  strong tracks found identities; short or doubtful ones neither found nor bridge them
        |  candidate pairs: exact nearest neighbours by cosine           find_neighbours
        |  size-adjusted average linkage, best pair first                link_tracks
        |  weak tracks join the identity they are close to, or none      attach_tracks
        |  one row per identity: id, centre, cohesion, face that shows the person best
    identities

Two tracks that are in the picture at the same time are never one person. Chosen in design/clustering.md by measurement:
averages do not chain with the size of the corpus as components do, and the sums of unit vectors make them exact.
Letters: N tracks, E pairs, K identities, D width of the embedding.
"""

import hashlib
import heapq
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import IdentitiesConfig
from pipeline.schema import IDENTITIES
from pipeline.tracks import unit_embeddings

#: Rows of the similarity matrix that are held at once: 2048 x 20,000 float32 are 160 MB.
BLOCK_ROWS = 2048

#: Closed ranges of frames per clip
Spans = dict[int, list[tuple[int, int]]]


def cluster_tracks(tracks: pa.Table, threshold: float, config: IdentitiesConfig) -> tuple[pa.Array, pa.Table]:
    """Find the identities of all tracks of a corpus.

    Two single tracks are one person from a cosine of `threshold + config.size_adjust` on; as clusters grow, their mean
    cosine has to reach `threshold` itself (`link_tracks`). Made for up to about 20,000 tracks (15 s on two cores): the
    time grows with the square of their number, the memory with `BLOCK_ROWS` times their number.

    Args:
        tracks: rows of `schema.TRACKS`, any order; `identity_id` is ignored.
        threshold: from the entry of the embedding model.
        config: the other parameters.

    Returns:
        The identity of each row, string or null, in the order of the rows; and `schema.IDENTITIES`, sorted by
        identity_id. A track without embedding, or with too few faces or too low a score (`config.min_frames`,
        `config.min_score`) to found an identity and close to none, has null.
    """
    order = np.argsort(tracks["track_id"].to_numpy(zero_copy_only=False).astype(str), kind="stable")
    ordered = tracks.take(order)
    unit_ND, embedded_N = unit_embeddings(ordered["embedding"])
    faces_N = ordered["faces"].to_numpy()
    score_N = ordered["mean_score"].to_numpy().astype(np.float32)
    strong_N = embedded_N & (faces_N >= config.min_frames) & ~(score_N < config.min_score)
    spans = _spans(ordered)

    founders = np.flatnonzero(strong_N)
    pairs_E2 = find_neighbours(unit_ND[founders], threshold, config.neighbours)
    cluster_S = link_tracks(
        unit_ND[founders], pairs_E2, [spans[i] for i in founders], threshold=threshold, size_adjust=config.size_adjust
    )
    cluster_N = np.full(len(order), -1, np.int64)
    cluster_N[founders] = cluster_S
    attach_tracks(cluster_N, np.flatnonzero(embedded_N & ~strong_N), unit_ND, spans, threshold, config.size_adjust)

    identities, id_of_cluster = _describe_identities(ordered, unit_ND, cluster_N, strong_N)
    identity_of_track = np.empty(len(order), object)
    identity_of_track[order] = [id_of_cluster.get(int(cluster)) for cluster in cluster_N]
    return pa.array(identity_of_track, pa.string()), identities


def _spans(tracks: pa.Table) -> list[Spans]:
    clip_N = tracks["clip_id"].combine_chunks().dictionary_encode().indices.to_pylist()
    first_N, last_N = tracks["first_frame"].to_pylist(), tracks["last_frame"].to_pylist()
    return [{clip: [(first, last)]} for clip, first, last in zip(clip_N, first_N, last_N, strict=True)]


def _covisible(a: Spans, b: Spans) -> bool:
    """Whether a track of one and a track of the other are in the same clip at the same time."""
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    return any(
        begin <= last and first <= end
        for clip, spans in small.items()
        if clip in large
        for first, last in spans
        for begin, end in large[clip]
    )


def _join_spans(into: Spans, other: Spans) -> None:
    for clip, spans in other.items():
        into.setdefault(clip, []).extend(spans)


def find_neighbours(unit_ND: np.ndarray, least: float, neighbours: int) -> np.ndarray:
    """Pairs of tracks that may be one person: the nearest of each by cosine, exact.

    Clusters whose mean cosine reaches `least` hold a pair that does, so nothing below it is needed.

    Args:
        unit_ND: float32 unit vectors.
        least: cosine from which a pair counts.
        neighbours: pairs kept per track, its nearest; a pair stays if either side keeps it.

    Returns:
        int64 (E, 2), each pair once with the smaller row first, sorted.
    """
    num = len(unit_ND)
    pairs = [np.empty((0, 2), np.int64)]
    for begin in range(0, num, BLOCK_ROWS):
        cosine_BN = unit_ND[begin : begin + BLOCK_ROWS] @ unit_ND.T
        rows_B = np.arange(len(cosine_BN))
        cosine_BN[rows_B, begin + rows_B] = -2  # itself
        crowded = np.flatnonzero((cosine_BN >= least).sum(axis=1) > neighbours)
        if len(crowded):
            far = np.argpartition(-cosine_BN[crowded], neighbours, axis=1)[:, neighbours:]
            cosine_BN[crowded[:, None], far] = -2
        row, other = np.nonzero(cosine_BN >= least)
        row += begin
        pairs.append(np.stack([np.minimum(row, other), np.maximum(row, other)], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def link_tracks(
    unit_ND: np.ndarray, pairs_E2: np.ndarray, spans: list[Spans], *, threshold: float, size_adjust: float
) -> np.ndarray:
    """Size-adjusted average linkage over candidate pairs, best pair first.

    Clusters A and B with summed unit vectors S score s = <S_A, S_B> / (n_A n_B) - size_adjust / sqrt(n_A n_B): their
    mean cosine, less what it may be by chance when they are small. They merge while s >= threshold and no track of one
    is in the picture together with a track of the other. Ties go to the smaller rows.

    Args:
        unit_ND: float32 unit vectors of the tracks.
        pairs_E2: int64, rows of the candidate pairs; clusters without a candidate pair between them never merge.
        spans: where each track is in the picture.
        threshold: least score of a merge.
        size_adjust: see above.

    Returns:
        int64 (N,): cluster of each track, named by its smallest row.
    """
    num = len(unit_ND)
    sum_ND = unit_ND.astype(np.float64)
    size_N = np.ones(num)
    version_N = [0] * num  # of the cluster that is named by this row; -1 once it is part of another
    parent_N = np.arange(num)
    spans = [{clip: list(ranges) for clip, ranges in span.items()} for span in spans]
    near: defaultdict[int, set[int]] = defaultdict(set)
    for a, b in pairs_E2.tolist():
        near[a].add(b)
        near[b].add(a)
    score_E = (sum_ND[pairs_E2[:, 0]] * sum_ND[pairs_E2[:, 1]]).sum(axis=1) - size_adjust
    scored = zip(score_E.tolist(), pairs_E2.tolist(), strict=True)
    heap = [(-score, a, b, 0, 0) for score, (a, b) in scored if score >= threshold]
    heapq.heapify(heap)
    while heap:
        _, a, b, version_a, version_b = heapq.heappop(heap)
        if version_N[a] != version_a or version_N[b] != version_b:
            continue  # one of them has grown since: this score is out of date
        if _covisible(spans[a], spans[b]):
            near[a].discard(b)
            near[b].discard(a)
            continue
        sum_ND[a] += sum_ND[b]
        size_N[a] += size_N[b]
        version_N[a], version_N[b] = version_a + 1, -1
        parent_N[b] = a
        _join_spans(spans[a], spans[b])
        for other in near.pop(b):
            near[other].discard(b)
            if other != a:
                near[other].add(a)
                near[a].add(other)
        others = np.array(sorted(near[a]), dtype=np.int64)
        product = size_N[others] * size_N[a]
        score = sum_ND[others] @ sum_ND[a] / product - size_adjust / np.sqrt(product)
        for other, value in zip(others[score >= threshold].tolist(), score[score >= threshold].tolist(), strict=True):
            low, high = min(a, other), max(a, other)
            heapq.heappush(heap, (-value, low, high, version_N[low], version_N[high]))
    for row in range(num):  # a parent is a smaller row, so it is resolved before its children
        parent_N[row] = parent_N[parent_N[row]]
    return parent_N


def attach_tracks(
    cluster_N: np.ndarray,
    weak: np.ndarray,
    unit_ND: np.ndarray,
    spans: list[Spans],
    threshold: float,
    size_adjust: float,
) -> None:
    """Add weak tracks to the identities they are close to, in place and best first; they change no centre.

    The score is that of `link_tracks` for a cluster and a single track: a doubtful face needs no less than a good one.
    On hard synthetic tracks (`identities/synth.py`) 99 of 100 that join do so rightly, and most of the others stay out.
    """
    member = np.flatnonzero(cluster_N >= 0)
    if len(weak) == 0 or len(member) == 0:
        return
    clusters_K, of_member = np.unique(cluster_N[member], return_inverse=True)
    sum_KD = np.zeros((len(clusters_K), unit_ND.shape[1]), np.float32)
    np.add.at(sum_KD, of_member, unit_ND[member])
    size_K = np.bincount(of_member)
    spans_K: list[Spans] = [{} for _ in clusters_K]
    for k, row in zip(of_member.tolist(), member.tolist(), strict=True):
        _join_spans(spans_K[k], spans[row])
    candidates: list[tuple[float, int, int]] = []
    for begin in range(0, len(weak), BLOCK_ROWS):
        rows_B = weak[begin : begin + BLOCK_ROWS]
        score_BK = unit_ND[rows_B] @ sum_KD.T / size_K - size_adjust / np.sqrt(size_K)
        b, near = np.nonzero(score_BK >= threshold)
        candidates += zip((-score_BK[b, near]).tolist(), rows_B[b].tolist(), near.tolist(), strict=True)
    for _, row, k in sorted(candidates):
        if cluster_N[row] < 0 and not _covisible(spans_K[k], spans[row]):
            cluster_N[row] = clusters_K[k]
            _join_spans(spans_K[k], spans[row])


def _describe_identities(
    tracks: pa.Table, unit_ND: np.ndarray, cluster_N: np.ndarray, strong_N: np.ndarray
) -> tuple[pa.Table, dict[int, str]]:
    """Rows of `schema.IDENTITIES`, and the identity_id of each cluster."""
    track_ids, clip_ids = tracks["track_id"].to_pylist(), tracks["clip_id"].to_pylist()
    faces_N = tracks["faces"].to_numpy()
    quality_N = np.nan_to_num(tracks["quality"].to_numpy().astype(np.float32))
    frame_N, face_N = tracks["representative_frame"].to_pylist(), tracks["representative_face"].to_pylist()
    member = np.flatnonzero(cluster_N >= 0)
    member = member[np.argsort(cluster_N[member], kind="stable")]
    groups = np.split(member, np.flatnonzero(np.diff(cluster_N[member])) + 1) if len(member) else []
    rows: list[dict[str, Any]] = []
    id_of_cluster: dict[int, str] = {}
    for rows_M in groups:
        founders = rows_M[strong_N[rows_M]]
        # tracks are sorted by id, so the founder is the strong member with the smallest one: no measured value has a
        # say, and the id stays when the embeddings change a little
        identity_id = hashlib.blake2b(f"identity/{track_ids[founders[0]]}".encode(), digest_size=8).hexdigest()
        id_of_cluster[int(cluster_N[rows_M[0]])] = identity_id
        centre_D = np.maximum(quality_N[founders], 1e-3) @ unit_ND[founders]
        centre_D /= np.linalg.norm(centre_D)
        best = int(founders[np.argmax(quality_N[founders] * (unit_ND[founders] @ centre_D))])
        rows.append(
            {
                "identity_id": identity_id,
                "tracks": len(rows_M),
                "clips": len({clip_ids[i] for i in rows_M}),
                "faces": int(faces_N[rows_M].sum()),
                "cohesion": min(float((unit_ND[rows_M] @ centre_D).mean()), 1.0),
                "embedding": centre_D,
                "members": [track_ids[i] for i in rows_M],
                "representative_clip_id": clip_ids[best],
                "representative_frame": frame_N[best],
                "representative_face": face_N[best],
            }
        )
    rows.sort(key=lambda row: row["identity_id"])
    return pa.Table.from_pylist(rows, schema=IDENTITIES), id_of_cluster
