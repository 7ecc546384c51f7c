"""The actor: hosts the models of some slots and annotates batches of chunks. An ordinary class; Ray runs it in a pool.

A chunk comes as a row of Arrow (pipeline/schema.py, FLOW): its frames as planar YUV, and perhaps the boxes or landmarks
that an earlier pool or an earlier run found. It leaves with the results of the slots hosted here, as flat float lists.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from actors.ops import crops
from actors.runtime.batch import Clipping, FaceBatch, Faces, Piece, face_batches, make_pieces, match_poses
from actors.runtime.chunk_rows import Part, Stored, alike, collect, lists, no_faces, to_clippings, to_lists
from actors.runtime.placement import place_network
from actors.runtime.threads import Lanes
from actors.runtime.timing import Stopwatch
from actors.weights.bundles import Model, build_model

#: pixels of all frames that go through a detector at once: a few hundred bytes of activations each; on a CPU per thread
BATCH_PIXELS = {"cpu": 1 << 20, "cuda": 64 << 20}
#: faces at once, likewise; on a CPU 64 are no faster than 16 and took 1.5 GB more
BATCH_FACES = {"cpu": 16, "cuda": 256}


class Annotator:
    """Runs the hosted models over batches of chunks.

    The result of a face does not depend on what shares its batch, but for float rounding of the device's kernels.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        device: str = "auto",
        threads: int | None = None,
        batch_frames: int = 32,
        batch_pixels: int | None = None,
        batch_faces: int | None = None,
        keep_frames: bool = False,
        cache: str | None = None,
        precision: str = "auto",
        storage_options: Mapping[str, Any] | None = None,
        fold: bool = True,
        winograd: bool = True,
    ) -> None:
        """Load the models.

        Args:
            models: the hosted models, in the bundle's order.
            device: `cpu`, `cuda`, or `auto`: CUDA if this process has one.
            threads: CPU threads; None leaves torch's number, which under Ray is 1. On a CPU each works on frames of
                its own, unless a user's model does not say that several may call it at once.
            batch_frames: frames of one size that go through the detector at once; this and the next two on a CPU in
                each thread.
            batch_pixels: pixels that go through the detector at once, which bounds its memory; None: BATCH_PIXELS.
            batch_faces: faces that go through a face model at once; None: BATCH_FACES.
            keep_frames: pass the frames on, for a later pool.
            cache: folder for weight files fetched from URIs.
            precision: dtype of all networks: float32, bfloat16 or float16; `auto`: what each model's card names.
            storage_options: for fsspec, of weight files that lie in remote storage.
            fold: fold batch norms into the convolutions before them; the same numbers but for rounding, and faster.
            winograd: on a CPU, 3x3 convolutions of float32 networks by Winograd's algorithm, likewise; takes memory.

        Raises:
            ModelError: weights are missing or do not fit.
        """
        if threads is not None:
            # logical CPUs may outnumber the cores, and more threads than cores wait for each other ten times as long
            torch.set_num_threads(max(1, min(threads, os.cpu_count() or 1)))
        # not asked of Ray: a cluster may give logical GPUs to a machine without any
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.batch_pixels = batch_pixels or BATCH_PIXELS[self.device.type]
        self.batch_faces = batch_faces or BATCH_FACES[self.device.type]
        self.batch_frames, self.keep_frames = batch_frames, keep_frames
        self.models = list(models)
        apart = self.device.type == "cpu" and all(model.thread_safe for model in models)
        self.lanes = Lanes(torch.get_num_threads() if apart else 1)
        self.stopwatch = Stopwatch(self.device)
        self.nets: dict[str, Any] = {
            model.slot: place_network(
                build_model(model, cache, storage_options),
                self.device,
                _dtype(model, self.device, precision),
                fold,
                winograd,
            )
            for model in models
        }

    def __call__(self, chunks: pa.Table) -> pa.Table:
        """Annotate a batch of chunks.

        Args:
            chunks: rows of FLOW.

        Returns:
            The same rows in the same order, with `face_index` and the columns of the hosted slots filled where the row
            asks for them in `slots`, and `planes` null unless frames are kept.
        """
        self.stopwatch.reset()
        columns = {name: chunks[name] for name in chunks.column_names}
        results: list[dict[str, np.ndarray]] = [{} for _ in range(chunks.num_rows)]
        for rows in alike(chunks, [model.slot for model in self.models]):
            for row, result in zip(
                rows, self._fit(chunks.take(rows) if len(rows) < chunks.num_rows else chunks), strict=True
            ):
                results[row] = result
        for name in ("face_index", *(model.slot for model in self.models)):
            values = [
                result.get(name) if name in result else old
                for result, old in zip(results, lists(chunks[name]), strict=True)
            ]
            columns[name] = to_lists(values, chunks.schema.field(name).type)
        if not self.keep_frames:
            columns["planes"] = pa.nulls(chunks.num_rows, chunks.schema.field("planes").type)
        return pa.table(columns, schema=chunks.schema)

    def _fit(self, chunks: pa.Table) -> list[dict[str, np.ndarray]]:
        """As `_annotate`; batches that do not fit the device are halved, and stay so for the life of this actor."""
        while True:
            try:
                return self._annotate(chunks)
            except torch.OutOfMemoryError:
                if self.batch_frames == self.batch_pixels == self.batch_faces == 1:
                    raise
            # here and not above: the exception held the tensors of the attempt
            self.batch_frames = max(1, self.batch_frames // 2)
            self.batch_pixels = max(1, self.batch_pixels // 2)
            self.batch_faces = max(1, self.batch_faces // 2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _annotate(self, chunks: pa.Table) -> list[dict[str, np.ndarray]]:
        """Results of each chunk; all chunks ask for the same slots and bring the same."""
        wanted = set(chunks["slots"][0].as_py() or ())
        brought = {name for name in ("face", "landmarks") if not chunks[name].is_null()[0].as_py()}
        models = [m for m in self.models if m.slot in self._closure(wanted) and m.slot not in brought]
        clippings = to_clippings(chunks)
        if not models or not any(c.count for c in clippings):
            return no_faces(chunks, [model.slot for model in models], brought)

        stored = Stored(clippings, chunks, self.device) if "face" in brought else None
        parts = self.lanes.run(lambda lane: self._part(models, clippings, stored, lane))
        return collect(clippings, parts, [m.slot for m in models if m.slot != "face"], with_faces=stored is None)

    @torch.inference_mode()
    def _part(self, models: Sequence[Model], clippings: Sequence[Clipping], stored: Stored | None, lane: int) -> Part:
        """One lane's pieces of the frames."""
        part = Part()
        pieces = make_pieces(
            clippings, self.device, self.batch_frames, self.batch_pixels, lane=lane, lanes=self.lanes.count
        )
        again = stored is not None and any(model.input == "detector" for model in models)
        for batch in face_batches(self._find(pieces, stored, again, part.found), self.batch_faces):
            self.stopwatch.batch(len(batch), self.batch_faces)
            if stored is None:
                part.sharpness.append(crops.sharpness(batch.input("crops112", None)))
            for model in models:
                if model.slot != "face":
                    part.outputs.setdefault(model.slot, []).append(self._run(model, batch))
        return part

    def _find(
        self, pieces: Iterable[Piece], stored: Stored | None, again: bool, found: list[tuple[Tensor, Faces]]
    ) -> Iterator[tuple[Piece, Faces]]:
        """The faces of each piece, detected or stored; keeps in `found` what outlives the piece's frames.

        `again`: the stored faces are looked for once more, as a model reads what the detector alone says of them.
        """
        for piece in pieces:
            faces = self._detect(piece) if stored is None else stored.faces(piece)
            if again:
                # poses are no part of the faces table: the detector says them once more
                faces = replace(faces, poses_N6=match_poses(faces, self._detect(piece)))
            found.append((piece.frame_B[faces.row_N], faces))
            yield piece, faces

    def _closure(self, wanted: set[str]) -> set[str]:
        """The wanted slots and those whose results they need."""
        needed = set(wanted)
        for model in reversed(self.models):
            if model.slot in needed:
                needed.update(model.needs)
        return needed

    def _detect(self, piece: Piece) -> Faces:
        with self.stopwatch.time("face"):
            found = self.nets["face"].detect(piece.frames_BCHW)
        return Faces(
            found.frame_N, found.boxes_N4.float(), found.scores_N.float(), found.points_N52, poses_N6=found.poses_N6
        )

    def _run(self, model: Model, batch: FaceBatch) -> Tensor:
        self.stopwatch.count(model.slot, len(batch))
        with self.stopwatch.time(model.slot):
            output = self.nets[model.slot](batch.input(model.input, model.align_on)).float()
        return batch.set_landmarks(output).flatten(1) if model.slot == "landmarks" else output


def _dtype(model: Model, device: torch.device, precision: str) -> torch.dtype:
    name = model.precision.get(device.type, "float32") if precision == "auto" else precision
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
