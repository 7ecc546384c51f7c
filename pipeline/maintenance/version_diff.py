"""Differences between two versions of a table, as numbers that a scheduled job can compare with limits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.arrays import columns_to_matrix, match_faces, pair_faces
from pipeline.errors import ConfigError
from pipeline.geometry import box_iou
from pipeline.storage.output import Output
from pipeline.tables import parquet

_MATCH_IOU = 0.5


@dataclass(frozen=True)
class DiffMetric:
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


def diff_versions(output: Output, table: str, old: str, new: str) -> list[DiffMetric]:
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
        if table == "faces":
            row_P, other_P, iou_P = _match_boxes(one, two)
            values = {"iou": iou_P}
        else:
            found = match_faces(one, two)
            row_P, other_P = np.flatnonzero(found.is_valid()), found.drop_null().to_numpy()
            values = _measures(table, one.take(row_P), two.take(other_P))
        counts += (one.num_rows, two.num_rows, len(row_P))
        for name, measure in values.items():
            measured.setdefault(name, []).append(np.asarray(measure, np.float32))
    metrics = [
        DiffMetric("rows_old", int(counts[0])),
        DiffMetric("rows_new", int(counts[1])),
        DiffMetric("only_old", int(counts[0] - counts[2])),
        DiffMetric("only_new", int(counts[1] - counts[2])),
        DiffMetric("changed_share", float(1 - 2 * counts[2] / (counts[0] + counts[1])) if counts[:2].sum() else 0.0),
    ]
    for name, parts in measured.items():
        values = np.concatenate(parts)
        metrics += _spread(name, values[~np.isnan(values)])
    return metrics


def _spread(name: str, values: np.ndarray) -> list[DiffMetric]:
    """Mean and the bad end of a measure: its 5th or 95th percentile and its extreme."""
    least = name in ("iou", "cosine")
    unit = {"distance": "px"}.get(name, "rad" if name.startswith(("pose_", "gaze_")) else "")
    tail, end = ("p05", "min") if least else ("p95", "max")
    empty = not len(values)
    return [
        DiffMetric(f"mean_{name}", None if empty else float(values.mean()), unit, least),
        DiffMetric(f"{tail}_{name}", None if empty else float(np.percentile(values, 5 if least else 95)), unit, least),
        DiffMetric(f"{end}_{name}", None if empty else float(values.min() if least else values.max()), unit, least),
    ]


def _by_shard(output: Output, table: str, old: str, new: str) -> Iterator[tuple[pa.Table, pa.Table]]:
    paths = [p for v in (old, new) for p in parquet.list_parquet(output, parquet.partition(table, v))]
    for shard in sorted({path.split("/shard=")[1].split("/")[0] for path in paths}):
        yield tuple(parquet.read_version(output, table, v, shard=shard) for v in (old, new))  # type: ignore[misc]


def _match_boxes(one: pa.Table, two: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of faces in one frame that overlap each other most, by at least _MATCH_IOU, and their overlap."""
    row_P, other_P = pair_faces(one, two)
    box_N4, box_M4 = (columns_to_matrix(table, ["box_x1", "box_y1", "box_x2", "box_y2"]) for table in (one, two))
    iou_P = box_iou(box_N4[row_P], box_M4[other_P])
    pairs = np.argsort(-iou_P, kind="stable")
    pairs = pairs[iou_P[pairs] >= _MATCH_IOU]
    for side_P in (row_P, other_P):  # the best pair of each face
        _, first = np.unique(side_P[pairs], return_index=True)
        pairs = pairs[np.sort(first)]
    return row_P[pairs], other_P[pairs], iou_P[pairs]


def _measures(table: str, one: pa.Table, two: pa.Table) -> dict[str, np.ndarray]:
    """Measure -> one value per face, out of the rows of the same faces in two versions."""
    slot = next(slot for slot, name in schema.TABLE_OF_SLOT.items() if name == table)
    names = [column.name for column in schema.SLOT_COLUMNS[slot]]
    one_NW, two_NW = (columns_to_matrix(side, names) for side in (one, two))
    if table == "landmarks":
        distance_NK = np.linalg.norm((one_NW - two_NW).reshape(len(one_NW), -1, 2), axis=2)
        return {"distance": distance_NK.mean(axis=1)}
    if table == "embeddings":
        length_N = np.linalg.norm(one_NW, axis=1) * np.linalg.norm(two_NW, axis=1)
        return {"cosine": (one_NW * two_NW).sum(axis=1) / np.maximum(length_N, 1e-12)}
    delta_NW = np.abs(one_NW - two_NW)
    measures = {"delta": delta_NW.ravel(), **{name: delta_NW[:, i] for i, name in enumerate(names)}}
    if table == "emotions" and len(one_NW):
        known_N = ~np.isnan(delta_NW).any(axis=1)
        changed_N = np.full(len(one_NW), np.nan)
        changed_N[known_N] = one_NW[known_N].argmax(axis=1) != two_NW[known_N].argmax(axis=1)
        measures["other_emotion"] = changed_N
    return measures


def _identity_metrics(output: Output, old: str, new: str) -> list[DiffMetric]:
    one, two = (parquet.read_version(output, "tracks", v, ["track_id", "identity_id"]) for v in (old, new))
    row_N = pc.index_in(one["track_id"], value_set=two["track_id"].combine_chunks())
    both = pa.table({"old": one["identity_id"], "new": two["identity_id"].take(row_N)}).filter(pc.is_valid(row_N))
    named = both.filter(pc.and_(pc.is_valid(both["old"]), pc.is_valid(both["new"])))
    return [
        DiffMetric("tracks_old", one.num_rows),
        DiffMetric("tracks_new", two.num_rows),
        DiffMetric("only_old", one.num_rows - both.num_rows),
        DiffMetric("only_new", two.num_rows - both.num_rows),
        DiffMetric("identities_old", pc.count_distinct(one["identity_id"]).as_py()),
        DiffMetric("identities_new", pc.count_distinct(two["identity_id"]).as_py()),
        DiffMetric("merges", _that_met_several(named, "new", "old")),
        DiffMetric("splits", _that_met_several(named, "old", "new")),
        DiffMetric("lost_identity", pc.sum(pc.and_(pc.is_valid(both["old"]), pc.is_null(both["new"]))).as_py() or 0),
    ]


def _that_met_several(named: pa.Table, side: str, other: str) -> int:
    """Identities of one side whose tracks have more than one identity on the other."""
    counts = named.group_by(side, use_threads=False).aggregate([(other, "count_distinct")])
    return pc.sum(pc.greater(counts[f"{other}_count_distinct"], 1)).as_py() or 0


def exceeded(metrics: list[DiffMetric], limits: Mapping[str, float]) -> list[DiffMetric]:
    """The metrics that break their limit.

    Raises:
        ConfigError: a limit on a metric that this table does not have.
    """
    by_name = {metric.name: metric for metric in metrics}
    if unknown := [name for name in limits if name not in by_name]:
        raise ConfigError(f"no metric {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name, limit in limits.items() if by_name[name].exceeds(limit)]
