"""Export in py-feat's layout (Fex) as CSV or Parquet, clip by clip.

In memory are the stored rows of one clip, and the wide rows of some frames of it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.models import DecodeConfig
from pipeline.errors import ConfigError, OutputError
from pipeline.export.fex import FEX, FexVideo, embeddings_of, fex_rows
from pipeline.export.pyfeat_identities import cluster_identities
from pipeline.runs.history import read_runs
from pipeline.storage.output import Output, open_output
from pipeline.tables.clip_reader import ClipReader, choose_clips

Format = Literal["fex-csv", "fex-parquet"]
Identities = Literal["corpus", "gallery", "hdbscan", "connected"]
_SUFFIX = {"fex-csv": ".csv", "fex-parquet": ".parquet"}
_BLOCK_FRAMES = 2000  # 695 numbers each, several times over while they become text


def export_fex(
    out: str,
    to: str,
    form: Format,
    *,
    clips: Sequence[str] = (),
    identities: Identities = "corpus",
    threshold: float = 0.8,
    faces_only: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    subject: bool = False,
) -> Iterator[tuple[str, int]]:
    """Write done clips in py-feat's layout.

    Args:
        out: output folder, any fsspec URI.
        to: a file (it ends in .csv or .parquet) for all clips, else a folder for one file per clip; any fsspec URI.
        form: `fex-csv` or `fex-parquet`.
        clips: ids, keys or uris; none: all done clips.
        identities: `corpus`: the identities of the corpus; else py-feat's clustering within each clip.
        threshold: cosine, for py-feat's clustering.
        faces_only: leave out the rows of frames without a face.
        storage_options: for fsspec.
        subject: only faces of the clips' subjects.

    Yields:
        (file, rows written into it so far) after each clip.

    Raises:
        OutputError: `out` holds no tables, a file cannot be written, or it is not known which frames were annotated.
        ConfigError: no such clip.
    """
    reader = _Reader(open_output(out, storage_options), identities, threshold, faces_only, subject)
    rows = reader.wanted(clips)
    single = to.endswith(_SUFFIX[form])
    if not single and to.endswith(tuple(_SUFFIX.values())):
        raise ConfigError(f"{to} does not fit --format {form}; its files end in {_SUFFIX[form]}")
    names = {} if single else _file_names(rows, _SUFFIX[form])
    options = {} if "://" not in to or to.startswith("file://") else dict(storage_options or {})
    written: dict[str, int] = {}
    with ExitStack() as stack:
        write: Callable[[pa.Table], None] | None = None
        for clip in rows:
            place = to if single else f"{to.rstrip('/')}/{names[clip['clip_id']]}"
            if write is None or not single:
                stack.close()
                write = _open_writer(place, form, options, stack)
            count = written.get(place, 0)
            for block in reader.blocks(clip):
                write(block)
                count += block.num_rows
            written[place] = count
            yield place, count


# -- reading ----------------------------------------------------------------------------------------------------------


class _Reader:
    """The current tables of an output, clip by clip."""

    def __init__(
        self, output: Output, identities: Identities, threshold: float, faces_only: bool, subject: bool
    ) -> None:
        self.output, self.identities, self.threshold, self.faces_only = output, identities, threshold, faces_only
        self.tables = ClipReader(output, subject)
        self._decode: DecodeConfig | None = None

    def wanted(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of `clips` that are done, by shard and id; of those that are named, if any are."""
        rows = choose_clips(self.tables.clips(), names)
        return sorted(rows, key=lambda row: (row["shard"], row["clip_id"]))

    def blocks(self, clip: Mapping[str, Any]) -> Iterator[pa.Table]:
        """A clip's rows in py-feat's layout, some frames at a time."""
        faces = self.tables.faces(clip, self.tables.slots)
        labels = self._labels(faces)
        frame_N = faces["frame"].to_numpy()
        frames_S = np.unique(frame_N) if self.faces_only else self._frames(clip, faces)
        video = FexVideo(_input(clip), clip["height"] or 0, clip["width"] or 0, clip["fps"])
        for low in range(0, len(frames_S), _BLOCK_FRAMES):
            part = frames_S[low : low + _BLOCK_FRAMES]
            begin, end = np.searchsorted(frame_N, [part[0], part[-1] + 1]).tolist()
            yield fex_rows(video, part, faces.slice(begin, end - begin), labels[begin:end])

    def _frames(self, clip: Mapping[str, Any], faces: pa.Table) -> np.ndarray:
        """Indices of all annotated frames of a clip.

        Raises:
            OutputError: they do not follow from what is stored.
        """
        with_faces_S = np.unique(faces["frame"].to_numpy()).astype(np.int64)
        if len(with_faces_S) == clip["sampled"]:
            return with_faces_S
        decode = self._sampling()
        if decode is not None and decode.fps is None and clip["start_s"] is None:
            frames_S = np.arange(0, clip["frames"], decode.every, dtype=np.int64)
            if len(frames_S) == clip["sampled"] and np.isin(with_faces_S, frames_S).all():
                return frames_S
        why = (
            "the record of the run that annotated it is gone"
            if decode is None
            else "frames were sampled by time (decode.fps)"
            if decode.fps is not None
            else "the clip is a time range of its video"
        )
        raise OutputError(
            f"clip {clip['key'] or clip['clip_id']}: {clip['sampled'] - len(with_faces_S)} of its {clip['sampled']} "
            f"annotated frames show no face, and the tables do not record which frames these are: {why}. Add "
            "--faces-only to leave their rows out."
        )

    def _sampling(self) -> DecodeConfig | None:
        """How the frames of the current tables were sampled, from the record of a run that made them."""
        if self._decode is None:
            current = self.tables.current["clips"]
            made = (run for run in read_runs(self.output) if run["tables"].get("clips") == current)
            if record := next(made, None):
                known = record["config"]["decode"]
                self._decode = DecodeConfig(every=known["every"], fps=known["fps"])
        return self._decode

    def _labels(self, faces: pa.Table) -> list[str | None]:
        """`Identity` of each face."""
        if self.identities == "corpus":
            return faces["identity_id"].to_pylist()
        if not faces.num_rows:
            return []
        return cluster_identities(embeddings_of(faces), self.threshold, self.identities)


def _input(clip: Mapping[str, Any]) -> str:
    path = str(clip["uri"]).removeprefix("file://")
    return path if clip["member"] is None else f"{path}!{clip['member']}"


# -- writing ----------------------------------------------------------------------------------------------------------


def _file_names(clips: Sequence[Mapping[str, Any]], suffix: str) -> dict[str, str]:
    """Clip id -> name of its file: its key, made safe; with the id behind it where two clips have one name."""
    safe = {clip["clip_id"]: re.sub(r"[^A-Za-z0-9._-]", "_", clip["key"] or clip["clip_id"]) for clip in clips}
    counts: dict[str, int] = {}
    for name in safe.values():
        counts[name] = counts.get(name, 0) + 1
    return {i: (name if counts[name] == 1 else f"{name}-{i}") + suffix for i, name in safe.items()}


def _open_writer(place: str, form: Format, options: Mapping[str, Any], stack: ExitStack) -> Callable[[pa.Table], None]:
    """Open a file of the export; returns what adds rows to it. `stack` closes it."""
    try:
        if "://" not in place:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(fsspec.open(place, "wb", **options))
    except (OSError, ValueError, ImportError) as error:
        raise OutputError(f"cannot write {place}: {error}") from error
    if form == "fex-parquet":
        return stack.enter_context(pq.ParquetWriter(file, FEX, compression="zstd")).write_table  # type: ignore[no-any-return]
    file.write((",".join(FEX.names) + "\n").encode())

    def write(rows: pa.Table) -> None:
        # pandas, as py-feat does it, so that numbers become the same text: 211.0 and not 211
        file.write(rows.to_pandas().to_csv(index=False, header=False).encode())

    return write
