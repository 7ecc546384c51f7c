"""Tracks of the corpus become identities.

    tracks          sorted by track_id: the order in which they come has no effect
        |  what is known: co-occurring tracks are two people, a user's overrides  find_constraints
        |  clusters of tracks                                                     cluster.cluster_rows
        |  ids that last: each cluster takes over the id whose tracks it has      carry_ids
        |  one row per identity, one per pair that is nearly one person           summary.py
    identities, ambiguous_pairs

Letters: N tracks, C cannot-links, K identities, D width of the embedding.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.config.models import IdentitiesConfig
from pipeline.identity.cluster import Account, ClusterRule, Search, cluster_rows
from pipeline.identity.constraints import Constraints
from pipeline.identity.knn import find_neighbors
from pipeline.identity.linkage import LinkageRule
from pipeline.identity.overrides import Override, links_of, names_of
from pipeline.identity.summary import describe_identities, list_ambiguous
from pipeline.tracking.faces import unit_embeddings


@dataclass(frozen=True)
class PreviousSnapshot:
    """The identities of the previous snapshot.

    Attributes:
        identity_of_track: track id -> identity_id, of tracks that are in an identity.
        retired: ids of older snapshots, which are not used again.
        frozen: its identities are kept, and only new tracks are looked at.
    """

    identity_of_track: Mapping[str, str] = field(default_factory=dict)
    retired: frozenset[str] = frozenset()
    frozen: bool = False


@dataclass(frozen=True)
class IdentityClusters:
    """A clustering of the corpus.

    Attributes:
        identity_of_track: string or null for each row of the tracks, in their order.
        identities: schema.IDENTITIES, sorted by identity_id.
        ambiguous_pairs: schema.AMBIGUOUS_PAIRS, the closest first.
    """

    identity_of_track: pa.Array
    identities: pa.Table
    ambiguous_pairs: pa.Table


def rule_of(threshold: float, config: IdentitiesConfig) -> ClusterRule:
    """The parameters of a clustering; `config.threshold` overrules the model's."""
    threshold = threshold if config.threshold is None else config.threshold
    linkage = LinkageRule(threshold, config.small_cluster_margin, config.conflict_share, config.relative_similarity)
    return ClusterRule(linkage, config.neighbors, config.component_cosine)


def cluster_tracks(
    tracks: pa.Table,
    threshold: float,
    config: IdentitiesConfig,
    *,
    previous: PreviousSnapshot | None = None,
    overrides: Sequence[Override] = (),
    search: Search = find_neighbors,
    account: Account | None = None,
) -> IdentityClusters:
    """Find the identities of all tracks of a corpus.

    Two single tracks are one person from a cosine of `threshold + config.small_cluster_margin` on; as clusters grow,
    their mean cosine has to reach `threshold` itself (`linkage`). Costs on two cores are in docs/identities.md.

    Args:
        tracks: rows of `schema.TRACKS`, any order; `identity_id`, `frames` and `members` are not read.
        threshold: from the entry of the embedding model.
        config: the other parameters.
        previous: the previous snapshot, whose ids are carried over.
        overrides: a user's corrections, in the order in which they were made.
        search: finds neighbors; by Ray tasks for large corpora.
        account: the costs are written to it.

    Returns:
        The identities. A track without embedding, or with too few faces, too low a score or quality (`config.min_*`) to
        found an identity and close to none, is in no identity.
    """
    previous, account = previous or PreviousSnapshot(), account or Account()
    order = np.argsort(tracks["track_id"].to_numpy(zero_copy_only=False).astype(str), kind="stable")
    ordered = tracks.take(pa.array(order, pa.int64()))
    track_ids = ordered["track_id"].to_pylist()
    unit_ND, embedded_N = unit_embeddings(ordered["embedding"])
    faces_N = ordered["faces"].to_numpy()
    score_N = ordered["mean_score"].to_numpy().astype(np.float32)
    quality_N = np.nan_to_num(ordered["quality"].to_numpy().astype(np.float32))
    enough_N = (faces_N >= config.min_frames) & ~(score_N < config.min_score)  # no score is no low score
    strong_N = enough_N & (quality_N >= config.min_quality)

    rows = np.flatnonzero(embedded_N)  # rows of `ordered` that are clustered; E counts them
    of_row = np.full(len(order), -1)
    of_row[rows] = np.arange(len(rows))
    row_of_track = {track_ids[row]: i for i, row in enumerate(rows.tolist())}
    constraints = find_constraints(ordered, overrides, row_of_track, of_row)
    frozen_E = None
    if previous.frozen:
        old = [previous.identity_of_track.get(track_ids[row]) for row in rows.tolist()]
        numbers = {identity: i for i, identity in enumerate(sorted({i for i in old if i is not None}))}
        frozen_E = np.array([-1 if i is None else numbers[i] for i in old], np.int64)
    rule = rule_of(threshold, config)
    cluster_E = cluster_rows(
        unit_ND[rows], quality_N[rows], strong_N[rows], constraints, rule, frozen_E, search, account
    )
    cluster_N = np.full(len(order), -1, np.int64)
    cluster_N[rows] = np.where(cluster_E >= 0, rows[cluster_E], -1)
    seed_N = strong_N & embedded_N
    seed_N[rows[constraints.must_M2.ravel()]] = True

    groups = _groups(cluster_N)
    members = {name: [track_ids[row] for row in rows_M.tolist()] for name, rows_M in groups.items()}
    # tracks are sorted by id, so the seed is the strong member with the smallest one: no measured value has a say
    seeds = {name: track_ids[rows_M[seed_N[rows_M]][0]] for name, rows_M in groups.items()}
    id_of_cluster = carry_ids(members, seeds, previous.identity_of_track, set(previous.retired))
    identity_N = [id_of_cluster.get(int(name)) for name in cluster_N]
    names = names_of(overrides, dict(zip(track_ids, identity_N, strict=True)))
    near_E2 = np.empty((0, 2), np.int64) if account.pairs is None else rows[account.pairs]
    identities = describe_identities(ordered, unit_ND, groups, seed_N, id_of_cluster, names, near_E2)
    seen_C2 = rows[constraints.cannot_C2]
    doubt = (rule.linkage, config.ambiguous_margin)
    ambiguous = list_ambiguous(unit_ND, quality_N, cluster_N, seed_N, id_of_cluster, near_E2, seen_C2, *doubt)
    identity_of_track = np.empty(len(order), object)
    identity_of_track[order] = identity_N
    return IdentityClusters(pa.array(identity_of_track, pa.string()), identities, ambiguous)


def _groups(cluster_N: np.ndarray) -> dict[int, np.ndarray]:
    """Rising rows of each cluster."""
    member = np.flatnonzero(cluster_N >= 0)
    member = member[np.argsort(cluster_N[member], kind="stable")]
    groups = np.split(member, np.flatnonzero(np.diff(cluster_N[member])) + 1) if len(member) else []
    return {int(cluster_N[rows_M[0]]): rows_M for rows_M in groups}


def find_constraints(
    tracks: pa.Table, overrides: Sequence[Override], row_of_track: Mapping[str, int], of_row: np.ndarray
) -> Constraints:
    """Tracks of one clip that overlap in time are two people; a user's override is stronger than that.

    Args:
        tracks: all of them.
        overrides: a user's corrections.
        row_of_track: track id -> its row among those that are clustered.
        of_row: the same by row of `tracks`, -1 for tracks that are not clustered.
    """
    must_M2, apart_A2 = links_of(overrides, row_of_track)
    seen_C2 = of_row[co_occurring_pairs(tracks)]
    seen_C2 = np.sort(seen_C2[(seen_C2 >= 0).all(axis=1)], axis=1)
    if len(must_M2) and len(seen_C2):
        seen_C2 = seen_C2[~np.isin(_keys(seen_C2), _keys(must_M2))]
    cannot_C2 = np.concatenate([seen_C2, apart_A2])
    weight_C = np.concatenate([np.ones(len(seen_C2)), np.full(len(apart_A2), np.inf)])
    return Constraints(cannot_C2, weight_C, must_M2)


def _keys(pairs_E2: np.ndarray) -> np.ndarray:
    return pairs_E2[:, 0] * (1 << 32) + pairs_E2[:, 1]


def co_occurring_pairs(tracks: pa.Table) -> np.ndarray:
    """Rows of tracks that are in the same clip at the same time: int64 (C, 2), the smaller row first."""
    clip_N = tracks["clip_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    first_N, last_N = tracks["first_frame"].to_numpy(), tracks["last_frame"].to_numpy()
    order = np.lexsort((first_N, clip_N))
    found = [np.empty((0, 2), np.int64)]
    here = order
    # compare each track with the next, the one after next, ... of its clip by first frame, until none can overlap
    step = 1
    alive = np.arange(len(here))
    reach = np.empty(len(here), np.int64)  # rows further on begin after this one has ended
    clip_end = np.searchsorted(clip_N[here], clip_N[here], side="right")
    for begin in np.unique(np.searchsorted(clip_N[here], clip_N[here])).tolist() if len(here) else []:
        end = int(clip_end[begin])
        reach[begin:end] = begin + np.searchsorted(first_N[here[begin:end]], last_N[here[begin:end]], side="right")
    while len(alive):
        alive = alive[alive + step < reach[alive]]
        pair_C2 = np.stack([here[alive], here[alive + step]], axis=1)
        found.append(np.sort(pair_C2, axis=1))
        step += 1
    return np.concatenate(found).astype(np.int64)


# -- stable ids -------------------------------------------------------------------------------------------------------


def new_identity_id(seed: str, taken: set[str]) -> str:
    """The id of a new identity: 16 hex digits from its seed's track id, and not one that is or was in use."""
    for attempt in range(1 << 16):
        name = f"identity/{seed}" if attempt == 0 else f"identity/{seed}/{attempt}"
        identity_id = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        if identity_id not in taken:
            return identity_id
    raise ValueError(f"no free identity id for the seed {seed}; {len(taken)} are in use")


def carry_ids(
    members: Mapping[int, Sequence[str]],
    seeds: Mapping[int, str],
    previous: Mapping[str, str],
    retired: set[str],
) -> dict[int, str]:
    """Give every cluster an id.

    Args:
        members: cluster -> track ids.
        seeds: cluster -> track id of its seed, which names it if it is new.
        previous: track id -> identity_id of the previous snapshot.
        retired: ids of older snapshots, which are not used again.

    Returns:
        cluster -> identity_id, all different.
    """
    shared = Counter(
        (previous[track], cluster) for cluster, tracks in members.items() for track in tracks if track in previous
    )
    id_of: dict[int, str] = {}
    given: set[str] = set()
    # the largest overlap first; ties by old id and seed, never by the order in which clusters come
    for (old, cluster), _ in sorted(shared.items(), key=lambda item: (-item[1], item[0][0], seeds[item[0][1]])):
        if old not in given and cluster not in id_of:
            id_of[cluster] = old
            given.add(old)
    taken = given | retired | set(previous.values())
    for cluster in sorted(set(members) - set(id_of), key=lambda cluster: seeds[cluster]):
        id_of[cluster] = new_identity_id(seeds[cluster], taken)
        taken.add(id_of[cluster])
    return id_of
