"""Faces of a video or picture as a table, in one process and without Ray: the flow's results, for a few files.

Frames are decoded by pipeline.decode.decoder and rows are made by pipeline.stages.write, which import neither Ray nor
torch: the one place where `actors` imports `pipeline`, so that a table from here and one from the flow cannot
differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.annotator import Annotator
from actors.runtime.settings import AnnotatorSettings
from actors.weights.bundles import resolve_bundle
from pipeline import schema
from pipeline.config.models import DecodeConfig
from pipeline.decode.chunking import chunks_to_table
from pipeline.decode.decoder import decode_clip
from pipeline.errors import ClipError
from pipeline.stages.write import slot_rows
from pipeline.storage import fs

#: one row per face: its location, then the columns of all slots; null where the bundle has no model for a slot
FACES = pa.schema(
    [
        schema.field("path", pa.string(), "the file, as it was given", nullable=False),
        schema.field("frame", pa.int64(), "index of the frame in the video, from 0", nullable=False),
        schema.field("face", pa.int32(), "face within the frame, from 0 in falling score", nullable=False),
        *(column for slot in schema.SLOTS for column in schema.SLOT_COLUMNS[slot]),
    ]
)


class FaceAnalyzer:
    """The models of a bundle, loaded once, for any number of files.

    Example:
        >>> from actors import FaceAnalyzer
        >>> faces = FaceAnalyzer("pyfeat").detect("clip.mp4", every=5).to_pandas()
    """

    def __init__(
        self,
        bundle: str = "pyfeat",
        *,
        device: str = "auto",
        mirror: str | None = None,
        cache: str | None = None,
        threads: int | None = None,
        precision: str = "auto",
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Locate and load the models.

        Args:
            bundle: a name (`pyfeat`, `tiny`) or a YAML file.
            device: `cpu`, `cuda`, or `auto`: CUDA where there is any.
            mirror: folder of weights laid out like the hub, any fsspec URI; None: the hub.
            cache: folder for weight files; None: the user's cache folders.
            threads: CPU threads; None: as torch is set.
            precision: dtype of the networks: float32, bfloat16 or float16; `auto`: by each model's card.
            storage_options: for fsspec, of weights and videos in remote storage.

        Raises:
            BundleError: no such bundle, or it is invalid.
            WeightsError: weights are missing or do not fit; the message names the model, the file and the remedy.
        """
        self._options = dict(storage_options or {})
        self.bundle = resolve_bundle(bundle, mirror=mirror, cache=cache, storage_options=self._options)
        settings = AnnotatorSettings(
            device=device, threads=threads, cache=cache, precision=precision, storage_options=self._options
        )
        self._annotate = Annotator(self.bundle.models, settings)

    def detect(self, paths: str | Path | Sequence[str | Path], every: int = 1) -> pa.Table:
        """Every face of some videos or pictures.

        Args:
            paths: a file or several, local or any fsspec URI; any format of FFmpeg, JPEG and PNG too.
            every: sample frames 0, k, 2k, ... of each video.

        Returns:
            Table with the schema FACES: one row per face, in the order of files, frames and falling score. Units and
            coordinate spaces are in each column's metadata; `.to_pandas()` makes it a DataFrame.

        Raises:
            ClipError: a file cannot be read to its end; the message names it. `stream` gives the frames before.
        """
        return pa.concat_tables([FACES.empty_table(), *self.stream(paths, every)])

    def stream(self, paths: str | Path | Sequence[str | Path], every: int = 1) -> Iterator[pa.Table]:
        """The rows of `detect`, some frames at a time; only these frames are in memory, however long a video.

        Args:
            paths: as `detect`.
            every: as `detect`.

        Yields:
            Tables with the schema FACES.

        Raises:
            ClipError: as `detect`.
        """
        config = DecodeConfig(every=every)
        for path in [paths] if isinstance(paths, (str, Path)) else paths:
            uri = fs.normalise_uri(str(path))
            clip = dict.fromkeys(schema.CLIP.names) | {"clip_id": "", "shard": "", "uri": uri}
            for chunk in decode_clip(clip, config, self._options):
                if chunk["error"] is not None:
                    raise ClipError(f"{path}: {chunk['error']['message']}", chunk["error"]["error_class"])
                if chunk["frames"]:
                    yield self._rows(str(path), self._annotate(self._to_flow(chunk)))

    def _to_flow(self, chunk: Mapping[str, Any]) -> pa.Table:
        """A chunk as the actors of the flow get it (schema.FLOW), asking for all slots of the bundle."""
        table = chunks_to_table([chunk])
        extra: dict[str, Any] = {"slots": list(self.bundle.versions)}
        for field in list(schema.FLOW)[len(schema.CHUNK) :]:
            table = table.append_column(field, pa.array([extra.get(field.name)], field.type))
        return table

    def _rows(self, path: str, annotated: pa.Table) -> pa.Table:
        """The table of an annotated chunk's faces."""
        columns: dict[str, pa.ChunkedArray] = {}
        for slot in self.bundle.versions:
            rows = slot_rows(annotated, slot)
            columns |= {name: rows[name] for name in rows.column_names}
        count = len(columns["frame"])
        columns["path"] = pa.chunked_array([pa.array([path] * count, pa.string())])
        return pa.table([columns.get(field.name, pa.nulls(count, field.type)) for field in FACES], schema=FACES)
