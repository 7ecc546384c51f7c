"""Overrides: a user's corrections of identities (merge, split, name).

Kept in OUT/decisions.json in the order in which they were made, and applied by every later run; a snapshot's version
depends on the file. Identities come and go, so an override names tracks: up to `ANCHORS` of the best ones stand for an
identity.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import OutputError
from pipeline.storage.output import Output, write_bytes

PATH = "decisions.json"  # as 0.1 named it
ANCHORS = 8


class Override(BaseModel):
    """One correction.

    `merge`: all of `tracks` are one person. `split`: all of `tracks` are one person, and none of `others` is.
    `name`: the identity that holds the first of `tracks` that is in any is called `name`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["merge", "split", "name"]
    tracks: tuple[str, ...]
    others: tuple[str, ...] = ()
    name: str | None = None


def read_overrides(output: Output) -> list[Override]:
    """The overrides of an output, none if there is no file.

    Raises:
        OutputError: the file is damaged.
    """
    try:
        content = json.loads(output.fs.cat_file(output.path(PATH)))
        return [Override.model_validate(item) for item in content]
    except FileNotFoundError:
        return []
    except (ValueError, ValidationError) as error:
        raise OutputError(f"{output.path(PATH)} holds no overrides: {error}; repair it or move it away") from error


def add_override(output: Output, override: Override) -> None:
    """Append an override; the file is replaced atomically."""
    _write(output, [*read_overrides(output), override])


def _write(output: Output, overrides: Sequence[Override]) -> None:
    content = [item.model_dump(mode="json") for item in overrides]
    write_bytes(output, PATH, (json.dumps(content, indent=1) + "\n").encode())


def erase_tracks(output: Output, tracks: Collection[str]) -> None:
    """Take tracks out of all overrides; an override without tracks is removed, and a name with it."""
    stored = read_overrides(output)
    after = []
    for override in stored:
        left = tuple(track for track in override.tracks if track not in tracks)
        others = tuple(track for track in override.others if track not in tracks)
        if left and (others or not override.others):
            after.append(override.model_copy(update={"tracks": left, "others": others}))
    if after != stored:
        _write(output, after)


def digest_overrides(overrides: Sequence[Override]) -> str:
    """12 hex digits that change with every override."""
    content = json.dumps([item.model_dump(mode="json") for item in overrides], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=6).hexdigest()


def links_of(overrides: Sequence[Override], row_of_track: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The overrides as pairs of rows; tracks that are gone are ignored, and a later override wins over an earlier one.

    Returns:
        must-links int64 (M, 2) and cannot-links int64 (C, 2).
    """
    must: dict[tuple[int, int], None] = {}
    cannot: dict[tuple[int, int], None] = {}

    def pair(a: int, b: int) -> tuple[int, int]:
        return (min(a, b), max(a, b))

    for override in overrides:
        rows = [row_of_track[track] for track in override.tracks if track in row_of_track]
        others = [row_of_track[track] for track in override.others if track in row_of_track]
        if override.kind == "name":
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


def names_of(overrides: Sequence[Override], identity_of_track: Mapping[str, str | None]) -> dict[str, str]:
    """identity_id -> name; a later override wins over an earlier one."""
    names: dict[str, str] = {}
    for override in overrides:
        identity = next(filter(None, (identity_of_track.get(track) for track in override.tracks)), None)
        if override.kind == "name" and identity is not None:
            if override.name:
                names[identity] = override.name
            else:
                names.pop(identity, None)
    return names
