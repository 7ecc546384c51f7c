"""How two versions of a table differ: numbers that a scheduled job can hold against a limit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline import schema
from pipeline.errors import ConfigError
from pipeline.storage.output import Output
from pipeline.tables import parquet

_KEY = ["clip_id", "frame", "face"]
_MATCH_IOU = 0.5


@dataclass(frozen=True)
class Metric:
    """One number of a comparison.

    Attributes:
        name, unit: for people and for limits.
        value: None: there was nothing to measure.
        least: a limit on it is the least that is allowed, else the most.
    """

    name: str
    value: float | None
    unit: str = ""
    least: bool = False

    def exceeds(self, limit: float) -> bool:
        """Whether it breaks a limit; what could not be measured does."""
        return self.value is None or (self.value < limit if self.least else self.value > limit)


def diff(output: Output, table: str, old: str, new: str) -> list[Metric]:
    """Compare two versions of a table, shard by shard.

    Raises:
        ConfigError: no such table or version, or one that has nothing to compare.
    """
    versions = parquet.table_versions(output, table)
    for version in (old, new):
        if version not in versions:
            raise ConfigError(f"table {table} has no version {version!r}; it has {', '.join(versions) or 'none'}")
    if table in ("tracks", "identities"):
        return _identity_metrics(output, old, new)
    if table not in schema.TABLE_OF_SLOT.values():
        raise ConfigError(
            f"versions of {table!r} cannot be compared; tables: {', '.join(schema.TABLE_OF_SLOT.values())}"
        )
    counts = np.zeros(3, np.int64)  # old, new, both
    measured: dict[str, list[np.ndarray]] = {}
    for one, two in _by_shard(output, table, old, new):
        pairs = _match_boxes(one, two) if table == "faces" else one.merge(two, on=_KEY, suffixes=("_old", "_new"))
        counts += (len(one), len(two), len(pairs))
        for name, values in _measures(table, pairs).items():
            measured.setdefault(name, []).append(np.asarray(values, np.float32))
    metrics = [
        Metric("rows_old", int(counts[0])),
        Metric("rows_new", int(counts[1])),
        Metric("only_old", int(counts[0] - counts[2])),
        Metric("only_new", int(counts[1] - counts[2])),
        Metric("changed_share", float(1 - 2 * counts[2] / (counts[0] + counts[1])) if counts[:2].sum() else 0.0),
    ]
    for name, parts in measured.items():
        values = np.concatenate(parts)
        metrics += _spread(name, values[~np.isnan(values)])
    return metrics


def _spread(name: str, values: np.ndarray) -> list[Metric]:
    """Mean and the bad end of a measure: its 5th or 95th percentile and its extreme."""
    least = name in ("iou", "cosine")
    unit = {"distance": "px"}.get(name, "rad" if name.startswith(("pose_", "gaze_")) else "")
    tail, end = ("p05", "min") if least else ("p95", "max")
    empty = not len(values)
    return [
        Metric(f"mean_{name}", None if empty else float(values.mean()), unit, least),
        Metric(f"{tail}_{name}", None if empty else float(np.percentile(values, 5 if least else 95)), unit, least),
        Metric(f"{end}_{name}", None if empty else float(values.min() if least else values.max()), unit, least),
    ]


def _by_shard(output: Output, table: str, old: str, new: str) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    paths = [p for v in (old, new) for p in parquet.list_files(output, parquet.partition(table, v))]
    for shard in sorted({path.split("/shard=")[1].split("/")[0] for path in paths}):
        yield tuple(parquet.read_version(output, table, v, shard=shard).to_pandas() for v in (old, new))  # type: ignore[misc]


def _match_boxes(one: pd.DataFrame, two: pd.DataFrame) -> pd.DataFrame:
    """Pairs of boxes in one frame that overlap each other most, by at least _MATCH_IOU; column `iou`."""
    pairs = one.merge(two, on=["clip_id", "frame"], suffixes=("_old", "_new"))
    box = {f"{n}{s}": pairs[f"box_{n}_{s}"].to_numpy() for n in ("x1", "y1", "x2", "y2") for s in ("old", "new")}
    width = np.minimum(box["x2old"], box["x2new"]) - np.maximum(box["x1old"], box["x1new"])
    height = np.minimum(box["y2old"], box["y2new"]) - np.maximum(box["y1old"], box["y1new"])
    inside = np.clip(width, 0, None) * np.clip(height, 0, None)
    areas = sum((box[f"x2{s}"] - box[f"x1{s}"]) * (box[f"y2{s}"] - box[f"y1{s}"]) for s in ("old", "new"))
    pairs["iou"] = inside / np.maximum(areas - inside, 1e-9)
    pairs = pairs[pairs["iou"] >= _MATCH_IOU].sort_values("iou", ascending=False, kind="stable")
    return pairs.drop_duplicates(["clip_id", "frame", "face_old"]).drop_duplicates(["clip_id", "frame", "face_new"])


def _measures(table: str, pairs: pd.DataFrame) -> dict[str, np.ndarray]:
    """Measure -> one value per pair of faces."""
    slot = next(slot for slot, name in schema.TABLE_OF_SLOT.items() if name == table)
    if table == "faces":
        return {"iou": pairs["iou"].to_numpy()}
    names = [column.name for column in schema.SLOT_COLUMNS[slot]]
    if table in ("landmarks", "embeddings"):
        one, two = (_matrix(pairs[f"{names[0]}_{side}"]) for side in ("old", "new"))
        if table == "landmarks":
            distances_NK = np.linalg.norm((one - two).reshape(len(one), -1, 2), axis=2)
            return {"distance": distances_NK.mean(1) if len(one) else np.empty(0)}
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
        return {"cosine": (one * two).sum(1) / np.maximum(lengths, 1e-12)}
    sides = [pairs[[f"{name}_{side}" for name in names]].to_numpy(np.float32) for side in ("old", "new")]
    delta_ND = np.abs(sides[0] - sides[1])
    measures = {"delta": delta_ND.ravel(), **{name: delta_ND[:, i] for i, name in enumerate(names)}}
    if table == "emotions" and len(pairs):
        known = ~np.isnan(sides[0]).any(1) & ~np.isnan(sides[1]).any(1)
        changed = np.full(len(pairs), np.nan)
        changed[known] = sides[0][known].argmax(1) != sides[1][known].argmax(1)
        measures["other_emotion"] = changed
    return measures


def _matrix(lists: pd.Series) -> np.ndarray:
    """Lists of one length as rows; a missing one becomes NaN."""
    width = next((len(item) for item in lists if item is not None), 1)
    rows = [np.full(width, np.nan, np.float32) if item is None else item for item in lists]
    return np.array(rows, np.float32).reshape(len(lists), width)


def _identity_metrics(output: Output, old: str, new: str) -> list[Metric]:
    names = ["track_id", "identity_id"]
    one, two = (parquet.read_version(output, "tracks", version, names).to_pandas() for version in (old, new))
    both = one.merge(two, on="track_id", suffixes=("_old", "_new"))
    named = both.dropna()
    merges = (named.groupby("identity_id_new")["identity_id_old"].nunique() > 1).sum()
    splits = (named.groupby("identity_id_old")["identity_id_new"].nunique() > 1).sum()
    return [
        Metric("tracks_old", len(one)),
        Metric("tracks_new", len(two)),
        Metric("only_old", len(one) - len(both)),
        Metric("only_new", len(two) - len(both)),
        Metric("identities_old", one["identity_id"].nunique()),
        Metric("identities_new", two["identity_id"].nunique()),
        Metric("merges", int(merges)),
        Metric("splits", int(splits)),
        Metric("lost_identity", int((both["identity_id_old"].notna() & both["identity_id_new"].isna()).sum())),
    ]


def exceeded(metrics: list[Metric], limits: Mapping[str, float]) -> list[Metric]:
    """The metrics that break their limit.

    Raises:
        ConfigError: a limit on a metric that this table does not have.
    """
    by_name = {metric.name: metric for metric in metrics}
    if unknown := [name for name in limits if name not in by_name]:
        raise ConfigError(f"no metric {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name, limit in limits.items() if by_name[name].exceeds(limit)]
