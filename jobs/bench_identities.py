"""Benchmark of the clustering: synthetic tracks with truth, scores, seconds and memory."""

import resource
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clustering import Account, ClusterRule, cluster_rows
from pipeline.constraints import Constraints
from pipeline.errors import ConfigError
from pipeline.neighbours import find_neighbours, measure_recall, partitioned_neighbours, to_grid
from pipeline.reference_clustering import Method, cluster_identities
from pipeline.scores import score_clusters

#: Below this quality a track founds no identity (IdentitiesConfig.min_quality).
MIN_QUALITY = 0.15
EXACT_UP_TO = 200_000
WIDTH = 512
#: Methods of the reference at its default and at the best threshold that design/clustering.md found.
REFERENCE: list[tuple[Method, float]] = [("gallery", 0.8), ("gallery", 0.4), ("connected", 0.45), ("hdbscan", 0.5)]
_HDBSCAN_UP_TO = 5_000  # scikit-learn's is quadratic: 20,000 rows take tens of minutes


def make_tracks(regime: str, num: int, seed: int) -> dict[str, np.ndarray]:
    """Synthetic track embeddings with hard cases, in the spirit of the evidence in design/clustering.md.

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


def measure(
    tracks: dict[str, np.ndarray], exact_up_to: int = EXACT_UP_TO, rule: ClusterRule | None = None
) -> dict[str, Any]:
    """Cluster, and say how good it is and what it cost."""
    rule = rule or ClusterRule()
    begun = time.perf_counter()
    warm_up()
    compile_seconds = time.perf_counter() - begun
    num = len(tracks["X"])
    exact = num <= exact_up_to

    def search(grid_ND: np.ndarray, fresh_N: np.ndarray, k: int, least: float) -> Any:
        if exact or not fresh_N.all():
            return find_neighbours(grid_ND, fresh_N, k, least)
        return partitioned_neighbours(grid_ND, k, least)

    account = Account()
    with _Peak() as peak:
        begun = time.perf_counter()
        order = canonical_order(tracks["X"], tracks["quality"])
        place = np.empty(num, np.int64)
        place[order] = np.arange(num)
        unit_ND, quality_N = tracks["X"][order], tracks["quality"][order]
        constraints = Constraints.of(np.sort(place[tracks["cl"]], axis=1))
        cluster_N = cluster_rows(
            unit_ND, quality_N, quality_N >= MIN_QUALITY, constraints, rule, search=search, account=account
        )
        total = time.perf_counter() - begun
    truth_N = tracks["y"][order]
    broken = constraints.cannot_C2
    broken = (cluster_N[broken[:, 0]] == cluster_N[broken[:, 1]]) & (cluster_N[broken[:, 0]] >= 0)
    found = account.nearest
    recall = 1.0 if exact or found is None else measure_recall(to_grid(unit_ND), found, rule.linkage.threshold - 0.02)
    return {
        "n": num,
        **score_clusters(cluster_N, truth_N).rounded(),
        "violations": int(broken.sum()),
        "clusters": len(np.unique(cluster_N[cluster_N >= 0])),
        "without": int((cluster_N < 0).sum()),
        "seconds": round(total - account.neighbour_seconds, 3),
        "neighbour_seconds": round(account.neighbour_seconds, 3),
        "compile_seconds": round(compile_seconds, 3),
        "peak_mb": round(peak.most - peak.start, 1),
        "process_mb": round(peak.most, 1),
        "recall": round(recall, 4),
        "exact": exact,
        "largest_component": account.largest_component,
    }


def compare(tracks: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The reference's methods on the same tracks; hdbscan, which is quadratic, on the first few thousand."""
    results = []
    for method, threshold in REFERENCE:
        num = min(len(tracks["X"]), _HDBSCAN_UP_TO) if method == "hdbscan" else len(tracks["X"])
        begun = time.perf_counter()
        try:
            labels = cluster_identities(tracks["X"][:num], threshold, method)
        except ConfigError as error:
            results.append({"method": method, "threshold": threshold, "n": num, "error": str(error)})
            continue
        seconds = time.perf_counter() - begun
        names = [None if label == "Unknown" else label for label in labels]
        numbers: dict[str | None, int] = {None: -1}
        cluster_N = np.array([numbers.setdefault(name, len(numbers)) for name in names])
        scores = score_clusters(cluster_N, tracks["y"][:num])
        results.append(
            {"method": method, "threshold": threshold, "n": num, **scores.rounded(), "seconds": round(seconds, 2)}
        )
    return results
