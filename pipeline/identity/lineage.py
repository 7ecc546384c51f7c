"""Stable identity ids: clusters take over the ids of the previous snapshot by the tracks that they share.

The id goes with the greatest number of shared tracks, one id to one cluster (assign.carry_ids). `lineage` has a row for
each other change of an old identity: one whose tracks went to a cluster with another id was merged into it, one whose
tracks went several ways was split, one whose tracks are in no cluster is retired. The same holds when the embedding
model has changed, since track ids do not depend on it: ids are carried over, and the lineage tells how many tracks
moved.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

import pyarrow as pa

from pipeline.schema import LINEAGE


def write_lineage(now: Mapping[str, str | None], previous: Mapping[str, str], snapshot: str, cause: str) -> pa.Table:
    """How the identities of the previous snapshot changed.

    Args:
        now: track id -> identity_id, or None for a track in no identity; tracks that are gone are absent.
        previous: track id -> identity_id of the previous snapshot.
        snapshot: version of the new snapshot.
        cause: `clustering`, `decision` or `model`.

    Returns:
        LINEAGE, a row for each change, sorted by from_id and to_id. An identity whose tracks all went
        to one other id is `merge`, several ways or a part `split`, those that are in no identity now `retire`.
    """
    ways: defaultdict[str, Counter[str | None]] = defaultdict(Counter)
    for track, old in previous.items():
        if track in now:
            ways[old][now[track]] += 1
    rows = []
    for old, targets in sorted(ways.items()):
        found = [target for target in targets if target is not None]
        for target, tracks in sorted(targets.items(), key=lambda item: item[0] or ""):
            if target == old or (target is None and found):
                continue
            event = "retire" if target is None else "merge" if len(found) == 1 else "split"
            rows.append(dict(zip(LINEAGE.names, (snapshot, event, old, target, tracks, cause), strict=True)))
    return pa.Table.from_pylist(rows, schema=LINEAGE)


def resolve_id(identity_id: str, lineage: pa.Table, living: set[str]) -> str:
    """Follow a former id to the identity that has it now or that it was merged into.

    Raises:
        KeyError: it was never in use, or its tracks are in no identity any more.
    """
    merged = {row["from_id"]: row["to_id"] for row in lineage.to_pylist() if row["event"] == "merge"}
    seen = set()
    current = identity_id
    while current not in living:
        if current in seen or current not in merged:
            raise KeyError(f"no identity {identity_id}; see the tables identities and lineage")
        seen.add(current)
        current = merged[current]
    return current
