"""A user's word on identities: two are one person, some tracks are somebody else, this one has a name.

Kept in OUT/decisions.json, in the order in which they were made, and obeyed by every later run; the file is part of
what a snapshot's version follows from. Identities come and go, so a decision names tracks: up to `ANCHORS` of the best
ones stand for an identity.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import OutputError
from pipeline.storage.output import Output, write_bytes

PATH = "decisions.json"
ANCHORS = 8


class Decision(BaseModel):
    """One decision.

    `merge`: all of `tracks` are one person. `split`: all of `tracks` are one person, and none of `others` is.
    `name`: the identity that holds the first of `tracks` that is in any is called `name`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["merge", "split", "name"]
    tracks: tuple[str, ...]
    others: tuple[str, ...] = ()
    name: str | None = None


def read_overrides(output: Output) -> list[Decision]:
    """The decisions of an output, none if there is no file.

    Raises:
        OutputError: the file is damaged.
    """
    try:
        content = json.loads(output.fs.cat_file(output.path(PATH)))
        return [Decision.model_validate(item) for item in content]
    except FileNotFoundError:
        return []
    except (ValueError, ValidationError) as error:
        raise OutputError(f"{output.path(PATH)} holds no decisions: {error}; mend it or move it away") from error


def add_decision(output: Output, decision: Decision) -> None:
    """Append a decision; the file appears whole or not at all."""
    _write(output, [*read_overrides(output), decision])


def _write(output: Output, decisions: Sequence[Decision]) -> None:
    content = [item.model_dump(mode="json") for item in decisions]
    write_bytes(output, PATH, (json.dumps(content, indent=1) + "\n").encode())


def forget_tracks(output: Output, tracks: Collection[str]) -> None:
    """Take tracks out of all decisions; a decision that names none any more goes, and a name with it."""
    before = read_overrides(output)
    after = []
    for decision in before:
        left = tuple(track for track in decision.tracks if track not in tracks)
        others = tuple(track for track in decision.others if track not in tracks)
        if left and (others or not decision.others):
            after.append(decision.model_copy(update={"tracks": left, "others": others}))
    if after != before:
        _write(output, after)


def digest_overrides(decisions: Sequence[Decision]) -> str:
    """12 hex digits that change with any decision that changes clusters or names."""
    content = json.dumps([item.model_dump(mode="json") for item in decisions], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=6).hexdigest()


def links_of(decisions: Sequence[Decision], row_of_track: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The decisions as pairs of rows; tracks that are gone have no say, and a later decision overrules an earlier one.

    Returns:
        must-links int64 (M, 2) and cannot-links int64 (C, 2).
    """
    must: dict[tuple[int, int], None] = {}
    cannot: dict[tuple[int, int], None] = {}

    def pair(a: int, b: int) -> tuple[int, int]:
        return (min(a, b), max(a, b))

    for decision in decisions:
        rows = [row_of_track[track] for track in decision.tracks if track in row_of_track]
        others = [row_of_track[track] for track in decision.others if track in row_of_track]
        if decision.kind == "name":
            continue
        apart = [pair(a, b) for a in rows for b in others if a != b]
        together = [pair(a, b) for i, a in enumerate(rows) for b in rows[:i]]
        for key in apart:
            must.pop(key, None)
            cannot[key] = None
        for key in together:
            cannot.pop(key, None)
            must[key] = None
    return np.array(sorted(must), np.int64).reshape(-1, 2), np.array(sorted(cannot), np.int64).reshape(-1, 2)


def names_of(decisions: Sequence[Decision], identity_of_track: Mapping[str, str | None]) -> dict[str, str]:
    """identity_id -> name; a later decision overrules an earlier one."""
    names: dict[str, str] = {}
    for decision in decisions:
        identity = next(filter(None, (identity_of_track.get(track) for track in decision.tracks)), None)
        if decision.kind == "name" and identity is not None:
            if decision.name:
                names[identity] = decision.name
            else:
                names.pop(identity, None)
    return names
