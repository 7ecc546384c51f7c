"""The actor: hosts the models of some slots and annotates batches of chunks. An ordinary class; Ray runs it in a pool.

A chunk comes as a row of Arrow (pipeline/schema.py, FLOW): its frames as planar YUV, and perhaps the boxes or landmarks
that an earlier pool or an earlier run found. The results of the slots hosted here are added as flat float lists.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from actors.ops import crops
from actors.runtime.chunk_rows import (
    LaneResults,
    StoredFaces,
    collect_results,
    empty_results,
    read_lists,
    rows_by_request,
    to_chunk_frames,
    write_lists,
)
from actors.runtime.faces import FaceBatch, Faces, make_face_batches, match_poses
from actors.runtime.frames import ChunkFrames, FrameBatch, make_frame_batches
from actors.runtime.placement import choose_device, choose_dtype, place_network
from actors.runtime.settings import AnnotatorSettings
from actors.runtime.threads import Lanes
from actors.runtime.timing import Stopwatch
from actors.weights.bundles import Model, build_model


class Annotator:
    """Runs the hosted models over batches of chunks.

    The result of a face does not depend on what shares its batch, but for float rounding of the device's kernels.
    """

    def __init__(self, models: Sequence[Model], settings: AnnotatorSettings | None = None) -> None:
        """Load the models.

        Args:
            models: the hosted models, in the bundle's order.
            settings: None: the defaults.

        Raises:
            ModelError: weights are missing or do not fit.
        """
        self.models, self.settings = list(models), settings or AnnotatorSettings()
        if self.settings.threads is not None:
            # logical CPUs may outnumber the cores, and more threads than cores wait for each other ten times as long
            torch.set_num_threads(max(1, min(self.settings.threads, os.cpu_count() or 1)))
        self.device = choose_device(self.settings.device)
        self.limits = self.settings.limits(self.device.type)
        parallel = self.device.type == "cpu" and all(model.thread_safe for model in models)
        self.lanes = Lanes(torch.get_num_threads() if parallel else 1)
        self.stopwatch = Stopwatch(self.device)
        self.nets: dict[str, Any] = {model.slot: self._load(model) for model in models}

    def _load(self, model: Model) -> Any:
        settings = self.settings
        net = build_model(model, settings.cache, settings.storage_options)
        dtype = choose_dtype(model.precision, self.device, settings.precision)
        return place_network(net, self.device, dtype, settings.fold, settings.winograd)

    def __call__(self, chunks: pa.Table) -> pa.Table:
        """Annotate a batch of chunks.

        Args:
            chunks: rows of FLOW.

        Returns:
            The same rows in the same order, with `face_index` and the columns of the hosted slots filled where the row
            asks for them in `slots`, and `planes` null unless frames are kept.

        Raises:
            torch.OutOfMemoryError: a single frame or face does not fit the device.
        """
        self.stopwatch.reset()
        columns = {name: chunks[name] for name in chunks.column_names}
        results: list[dict[str, np.ndarray]] = [{} for _ in range(chunks.num_rows)]
        for rows in rows_by_request(chunks, [model.slot for model in self.models]):
            group = chunks.take(rows) if len(rows) < chunks.num_rows else chunks
            for row, result in zip(rows, self._annotate_in_memory(group), strict=True):
                results[row] = result
        for name in ("face_index", *(model.slot for model in self.models)):
            values = [
                result.get(name) if name in result else old
                for result, old in zip(results, read_lists(chunks[name]), strict=True)
            ]
            columns[name] = write_lists(values, chunks.schema.field(name).type)
        if not self.settings.keep_frames:
            columns["planes"] = pa.nulls(chunks.num_rows, chunks.schema.field("planes").type)
        return pa.table(columns, schema=chunks.schema)

    def _annotate_in_memory(self, chunks: pa.Table) -> list[dict[str, np.ndarray]]:
        """As `_annotate`; batches that do not fit the device are halved, and stay so for the life of this actor."""
        while True:
            try:
                return self._annotate(chunks)
            except torch.OutOfMemoryError:
                if self.limits.are_least:
                    raise
            # here and not above: the exception held the tensors of the attempt
            self.limits = self.limits.halved()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _annotate(self, chunks: pa.Table) -> list[dict[str, np.ndarray]]:
        """Results of each chunk; all chunks ask for the same slots and bring the same."""
        asked = set(chunks["slots"][0].as_py() or ())
        brought = {name for name in ("face", "landmarks") if not chunks[name].is_null()[0].as_py()}
        models = [m for m in self.models if m.slot in self._closure(asked) and m.slot not in brought]
        frames = to_chunk_frames(chunks)
        if not models or not any(chunk.count for chunk in frames):
            return empty_results(chunks, [model.slot for model in models], brought)

        stored = StoredFaces(frames, chunks, self.device) if "face" in brought else None
        lanes = self.lanes.run(lambda lane: self._run_lane(models, frames, stored, lane))
        return collect_results(frames, lanes, [m.slot for m in models if m.slot != "face"], with_faces=stored is None)

    @torch.inference_mode()
    def _run_lane(
        self, models: Sequence[Model], chunks: Sequence[ChunkFrames], stored: StoredFaces | None, lane: int
    ) -> LaneResults:
        """Results of one lane's batches of frames."""
        results = LaneResults()
        batches = make_frame_batches(
            chunks, self.device, self.limits.frames, self.limits.pixels, lane=lane, lanes=self.lanes.count
        )
        again = stored is not None and any(model.input == "detector" for model in models)
        for batch in make_face_batches(self._locate(batches, stored, again, results.found), self.limits.faces):
            self.stopwatch.batch(len(batch), self.limits.faces)
            if stored is None:
                results.sharpness.append(crops.sharpness(batch.input("crops112", None)))
            for model in models:
                if model.slot != "face":
                    results.outputs.setdefault(model.slot, []).append(self._run(model, batch))
        return results

    def _locate(
        self, batches: Iterable[FrameBatch], stored: StoredFaces | None, again: bool, found: list[tuple[Tensor, Faces]]
    ) -> Iterator[tuple[FrameBatch, Faces]]:
        """The faces of each batch of frames, detected or stored; keeps in `found` what outlives the batch's pixels.

        `again`: frames with stored faces go through the detector too, as a model reads poses that it alone gives.
        """
        for batch in batches:
            faces = self._detect(batch) if stored is None else stored.faces(batch)
            if again:
                faces = replace(faces, poses_N6=match_poses(faces, self._detect(batch)))
            found.append((batch.frame_B[faces.row_N], faces))
            yield batch, faces

    def _closure(self, slots: set[str]) -> set[str]:
        """The slots and those whose results they need."""
        needed = set(slots)
        for model in reversed(self.models):
            if model.slot in needed:
                needed.update(model.needs)
        return needed

    def _detect(self, frames: FrameBatch) -> Faces:
        with self.stopwatch.time("face"):
            found = self.nets["face"].detect(frames.frames_BCHW)
        return Faces(
            found.frame_N, found.boxes_N4.float(), found.scores_N.float(), found.points_N52, poses_N6=found.poses_N6
        )

    def _run(self, model: Model, batch: FaceBatch) -> Tensor:
        self.stopwatch.count(model.slot, len(batch))
        with self.stopwatch.time(model.slot):
            output = self.nets[model.slot](batch.input(model.input, model.align_on)).float()
        return batch.set_landmarks(output).flatten(1) if model.slot == "landmarks" else output
