"""Benchmark of the clustering: synthetic tracks with truth, scores, seconds and memory."""

import resource
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.export.pyfeat_identities import Method, cluster_identities
from pipeline.identity.assign import carry_ids
from pipeline.identity.cluster import CANDIDATE_MARGIN, Account, ClusterRule, Search, cluster_rows
from pipeline.identity.constraints import Constraints
from pipeline.identity.knn import Nearest, find_neighbors, measure_recall, partitioned_neighbors, to_grid
from pipeline.identity.scores import score_clusters

#: Below this quality a track seeds no identity (IdentitiesConfig.min_quality).
MIN_QUALITY = 0.15
EXACT_UP_TO = 100_000  # IdentitiesConfig.exact_up_to
WIDTH = 512
#: Methods of the reference at its default and at the best threshold that docs/reference/clustering.md found.
REFERENCE: list[tuple[Method, float]] = [("gallery", 0.8), ("gallery", 0.4), ("connected", 0.45), ("hdbscan", 0.5)]
_HDBSCAN_UP_TO = 5_000  # scikit-learn's is quadratic: 20,000 rows take tens of minutes


def make_tracks(regime: str, num: int, seed: int) -> dict[str, np.ndarray]:
    """Synthetic track embeddings with hard cases, in the spirit of the evidence in docs/reference/clustering.md.

    People are directions; a fifth of them are look-alikes of another. Those with many tracks have several looks. Tracks
    vary in quality, 2 % are occluded, 2 % show no face, 1 % lie between two people. A tenth are seen together with
    another person, and so are half of the look-alikes.

    Args:
        regime: `celebv` (few tracks per person, most have one) or `ms1m` (about fifty).
        num: tracks.
        seed: of everything.

    Returns:
        `X` float32 (num, 512) unit, `y` int64 truth, `quality` float32, `cl` int64 (C, 2) seen together.
    """
    random = np.random.default_rng(seed)
    size = np.empty(0, np.int64)
    while size.sum() < num:
        more = random.zipf(2.2, num).clip(1, 400) if regime == "celebv" else random.lognormal(3.5, 1, num).clip(1, 500)
        size = np.concatenate([size, more.astype(np.int64)])
    size = size[: int(np.searchsorted(np.cumsum(size), num)) + 1]
    size[-1] -= size.sum() - num
    people = len(size)
    truth = np.repeat(np.arange(people), size)
    # the variance of a real model's directions falls off: about 200 of 512 count
    spectrum = np.sqrt(1 / (np.arange(WIDTH) + 26.0)).astype(np.float32)
    spectrum /= np.linalg.norm(spectrum)

    def directions(count: int) -> np.ndarray:
        return random.standard_normal((count, WIDTH), np.float32) * spectrum

    person_KD = _unit(directions(people) + 0.45 * _unit(directions(240))[random.integers(0, 240, people)])
    alike = random.choice(people, people // 5, replace=False)
    other = random.integers(0, people, len(alike))
    closeness = random.uniform(0.35, 0.75, (len(alike), 1)).astype(np.float32)
    person_KD[alike] = _unit(closeness * person_KD[other] + np.sqrt(1 - closeness**2) * person_KD[alike])
    looks = np.where(size >= 6, random.integers(1, 5, people), 1)
    look_of, look_N = np.unique(truth * 8 + (random.random(num) * looks[truth]).astype(int), return_inverse=True)
    strength = np.where(looks[look_of // 8] > 1, random.uniform(0.25, 0.6, len(look_of)), 0)[:, None]
    turn = _unit(random.standard_normal((len(look_of), WIDTH), np.float32))
    look_KD = _unit(person_KD[look_of // 8] + strength.astype(np.float32) * turn)
    diffuse = np.exp(0.22 * random.standard_normal(people))
    noise_N = (0.9 * diffuse[truth] * np.exp(0.33 * random.standard_normal(num))).astype(np.float32)
    bad_KD = _unit(random.standard_normal((6, WIDTH), np.float32))  # what poor pictures have in common
    kind = random.random(num)
    unit_ND = np.empty((num, WIDTH), np.float32)
    for begin in range(0, num, 65_536):
        rows = np.arange(begin, min(begin + 65_536, num))
        clear, noise, level = look_KD[look_N[rows]], directions(len(rows)), noise_N[rows, None]
        common = bad_KD[random.integers(0, 6, len(rows))]
        value = clear + level * noise + 0.5 * np.clip(level - 1.05, 0, None) * common
        blend = (kind[rows] > 0.99)[:, None]
        mixed = 0.6 * clear + 0.5 * person_KD[random.integers(0, people, len(rows))] + 0.5 * level * noise
        hidden, faceless = (kind[rows] < 0.02)[:, None], ((kind[rows] >= 0.02) & (kind[rows] < 0.04))[:, None]
        value = np.where(blend, mixed, value)
        value = np.where(hidden, 0.35 * clear + noise + 0.55 * common, value)
        unit_ND[rows] = _unit(np.where(faceless, noise + 0.55 * common, value))
    quality = (1 / (1 + noise_N**2)).astype(np.float32)
    quality[kind < 0.04] = 0.1
    faceless_N = (kind >= 0.02) & (kind < 0.04)
    truth = np.where(faceless_N, people + np.arange(num), truth)  # each non-face is nobody else
    order = random.permutation(num)
    unit_ND, truth, quality = unit_ND[order], truth[order], quality[order]
    pairs = [random.permutation(num)[: num // 20 * 2].reshape(-1, 2)]
    by_person = np.argsort(truth, kind="stable")
    first = np.searchsorted(truth[by_person], np.arange(people + 1))
    for a, b in zip(alike.tolist(), other.tolist(), strict=True):
        together = min(first[a + 1] - first[a], first[b + 1] - first[b], 3)
        if random.random() < 0.5 and together:
            rows_a, rows_b = (by_person[first[p] : first[p] + together] for p in (a, b))
            pairs.append(np.stack([rows_a, rows_b], axis=1))
    cannot = np.concatenate(pairs)
    cannot = cannot[truth[cannot[:, 0]] != truth[cannot[:, 1]]]
    return {"X": unit_ND, "y": truth, "quality": quality, "cl": cannot}


def _unit(value_ND: np.ndarray) -> np.ndarray:
    return (value_ND / np.linalg.norm(value_ND, axis=1, keepdims=True)).astype(np.float32)


def read_tracks(path: Path) -> dict[str, np.ndarray]:
    """`X`, `y`, `quality` and `cl` of an .npz file; quality and cl may be missing."""
    with np.load(path) as file:
        found = {name: file[name] for name in ("X", "y", "quality", "cl") if name in file}
    found.setdefault("quality", np.ones(len(found["X"]), np.float32))
    found.setdefault("cl", np.empty((0, 2), np.int64))
    return found


def canonical_order(unit_ND: np.ndarray, quality_N: np.ndarray) -> np.ndarray:
    """An order of the rows that their values alone decide: tracks have ids for that, bare vectors have not."""
    grid_ND = np.ascontiguousarray(to_grid(unit_ND))
    key_N = grid_ND.view(np.dtype((np.void, grid_ND.shape[1] * 2))).ravel()
    return np.lexsort((quality_N, np.unique(key_N, return_inverse=True)[1]))


class _Peak:
    """The largest resident memory of this process above that at the start, sampled, in MB."""

    def __enter__(self) -> "_Peak":
        self.start = self.most = _resident_mb()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, _resident_mb())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def warm_up() -> None:
    """Compile the kernels, which the first process on a machine must."""
    tiny = make_tracks("ms1m", 200, 0)
    cluster_rows(tiny["X"], tiny["quality"], tiny["quality"] > 0.2, Constraints.of(tiny["cl"]), ClusterRule())


@dataclass(frozen=True)
class _Ordered:
    """Tracks in their canonical order, as the clustering takes them."""

    unit_ND: np.ndarray
    quality_N: np.ndarray
    truth_N: np.ndarray
    constraints: Constraints

    @staticmethod
    def of(tracks: dict[str, np.ndarray]) -> "_Ordered":
        order = canonical_order(tracks["X"], tracks["quality"])
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        constraints = Constraints.of(np.sort(place[tracks["cl"]], axis=1))
        return _Ordered(tracks["X"][order], tracks["quality"][order], tracks["y"][order], constraints)

    def part(self, rows: np.ndarray) -> "_Ordered":
        """Some rows, rising, and the constraints among them."""
        place = np.full(len(self.truth_N), -1)
        place[rows] = np.arange(len(rows))
        cannot = place[self.constraints.cannot_C2]
        cannot = cannot[(cannot >= 0).all(axis=1)]
        return _Ordered(self.unit_ND[rows], self.quality_N[rows], self.truth_N[rows], Constraints.of(cannot))

    def cluster(self, rule: ClusterRule, search: Search, account: Account, frozen: np.ndarray | None) -> np.ndarray:
        strong_N = self.quality_N >= MIN_QUALITY
        return cluster_rows(
            self.unit_ND, self.quality_N, strong_N, self.constraints, rule, frozen, search=search, account=account
        )


def search_of(num: int, exact_up_to: int) -> Search:
    """The search for a corpus of `num` tracks: exact, or inside partitions."""

    def search(grid_ND: np.ndarray, fresh_N: np.ndarray, k: int, least: float) -> Nearest:
        if num <= exact_up_to or not fresh_N.all():
            return find_neighbors(grid_ND, fresh_N, k, least)
        return partitioned_neighbors(grid_ND, k, least)

    return search


def measure_clustering(
    tracks: dict[str, np.ndarray], exact_up_to: int = EXACT_UP_TO, rule: ClusterRule | None = None
) -> dict[str, Any]:
    """Cluster, and say how good it is and what it cost."""
    rule = rule or ClusterRule()
    started = time.perf_counter()
    warm_up()
    compile_seconds = time.perf_counter() - started
    num = len(tracks["X"])
    account = Account()
    with _Peak() as peak:
        started = time.perf_counter()
        ordered = _Ordered.of(tracks)
        order_seconds = time.perf_counter() - started
        cluster_N = ordered.cluster(rule, search_of(num, exact_up_to), account, None)
        total = time.perf_counter() - started
    broken = ordered.constraints.cannot_C2
    broken = (cluster_N[broken[:, 0]] == cluster_N[broken[:, 1]]) & (cluster_N[broken[:, 0]] >= 0)
    exact, found = num <= exact_up_to, account.nearest
    least = rule.linkage.threshold - CANDIDATE_MARGIN
    recall = 1.0 if exact or found is None else measure_recall(to_grid(ordered.unit_ND), found, least)
    return {
        "n": num,
        **score_clusters(cluster_N, ordered.truth_N).rounded(),
        "violations": int(broken.sum()),
        "clusters": len(np.unique(cluster_N[cluster_N >= 0])),
        "without": int((cluster_N < 0).sum()),
        "seconds": round(total - account.neighbor_seconds, 3),
        "neighbor_seconds": round(account.neighbor_seconds, 3),
        "order_seconds": round(order_seconds, 3),
        "compile_seconds": round(compile_seconds, 3),
        "peak_mb": round(peak.most - peak.start, 1),
        "process_mb": round(peak.most, 1),
        "recall": round(recall, 4),
        "exact": exact,
        "largest_component": account.largest_component,
    }


def grow(
    tracks: dict[str, np.ndarray], share: float, exact_up_to: int = EXACT_UP_TO, rule: ClusterRule | None = None
) -> dict[str, Any]:
    """Add new tracks, drawn at random, to a clustering of the others; beside it, cluster all of them again.

    Args:
        tracks: old and new ones.
        share: new tracks as a share of the old ones.
        exact_up_to: above so many tracks neighbors are approximate.
        rule: parameters.

    Returns:
        For `added` and `afresh`: `kept`, the share of the old tracks in an identity that keep its id when ids are
        carried over (pipeline/identity/lineage.py), seconds, neighbors included, and scores over all tracks. `cost`:
        seconds of adding as a share of those of clustering all again.
    """
    rule = rule or ClusterRule()
    warm_up()
    whole = _Ordered.of(tracks)
    num = len(whole.truth_N)
    old = np.sort(np.random.default_rng(0).permutation(num)[: round(num / (1 + share))])
    search = search_of(num, exact_up_to)
    known = np.full(num, -1, np.int64)
    before = whole.part(old).cluster(rule, search, Account(), None)
    known[old] = np.where(before >= 0, old[before], -1)
    result: dict[str, Any] = {"n": num, "new": num - len(old)}
    for name, frozen in (("added", known), ("afresh", None)):
        started = time.perf_counter()
        cluster_N = whole.cluster(rule, search, Account(), frozen)
        seconds = time.perf_counter() - started
        scores = score_clusters(cluster_N, whole.truth_N)
        kept = _kept(known, cluster_N)
        result[name] = {"kept": kept, "seconds": round(seconds, 3), **scores.rounded()}
    return result | {"cost": round(result["added"]["seconds"] / result["afresh"]["seconds"], 4)}


def _kept(before_N: np.ndarray, cluster_N: np.ndarray) -> float:
    """Share of the tracks in an identity before that bear its id still."""
    rows = np.flatnonzero(cluster_N >= 0)
    members: dict[int, list[str]] = {}
    for row in rows.tolist():
        members.setdefault(int(cluster_N[row]), []).append(str(row))
    old = {str(row): f"id{before_N[row]}" for row in np.flatnonzero(before_N >= 0).tolist()}
    ids = carry_ids(members, {name: rows[0] for name, rows in members.items()}, old, set())
    now = {track: ids[name] for name, tracks in members.items() for track in tracks}
    return round(float(np.mean([now.get(track) == identity for track, identity in old.items()])), 5)


def compare_references(tracks: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The reference's methods on the same tracks; hdbscan, which is quadratic, on the first few thousand."""
    results = []
    for method, threshold in REFERENCE:
        num = min(len(tracks["X"]), _HDBSCAN_UP_TO) if method == "hdbscan" else len(tracks["X"])
        started = time.perf_counter()
        try:
            labels = cluster_identities(tracks["X"][:num], threshold, method)
        except ConfigError as error:
            results.append({"method": method, "threshold": threshold, "n": num, "error": str(error)})
            continue
        seconds = time.perf_counter() - started
        names = [None if label == "Unknown" else label for label in labels]
        numbers: dict[str | None, int] = {None: -1}
        cluster_N = np.array([numbers.setdefault(name, len(numbers)) for name in names])
        scores = score_clusters(cluster_N, tracks["y"][:num])
        results.append(
            {"method": method, "threshold": threshold, "n": num, **scores.rounded(), "seconds": round(seconds, 2)}
        )
    return results
