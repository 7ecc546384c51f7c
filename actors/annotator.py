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

from actors import crops
from actors.batch import Clipping, FaceBatch, Faces, Piece, face_batches, make_pieces, match_poses
from actors.bundles import Model, build_model
from actors.placing import place_network
from actors.timing import Stopwatch

FACE_WIDTH = 16  # x1 y1 x2 y2, score, five points, sharpness

#: pixels of all frames that go through a detector at once: a few hundred bytes of activations each
BATCH_PIXELS = {"cpu": 2 << 20, "cuda": 64 << 20}
#: faces at once; on a CPU 64 are no faster than 16 and took 1.5 GB more
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
            threads: CPU threads; None leaves torch's number, which under Ray is 1.
            batch_frames: frames of one size that go through the detector at once.
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
        for rows in _alike(chunks, [model.slot for model in self.models]):
            for row, result in zip(
                rows, self._fit(chunks.take(rows) if len(rows) < chunks.num_rows else chunks), strict=True
            ):
                results[row] = result
        for name in ("face_index", *(model.slot for model in self.models)):
            values = [
                result.get(name) if name in result else old
                for result, old in zip(results, _lists(chunks[name]), strict=True)
            ]
            columns[name] = _to_lists(values, chunks.schema.field(name).type)
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

    @torch.inference_mode()
    def _annotate(self, chunks: pa.Table) -> list[dict[str, np.ndarray]]:
        """Results of each chunk; all chunks ask for the same slots and bring the same."""
        wanted = set(chunks["slots"][0].as_py() or ())
        brought = {name for name in ("face", "landmarks") if not chunks[name].is_null()[0].as_py()}
        models = [m for m in self.models if m.slot in self._closure(wanted) and m.slot not in brought]
        clippings = list(_clippings(chunks))
        if not models or not any(c.count for c in clippings):
            return _empty(chunks, [model.slot for model in models], brought)

        pieces = make_pieces(clippings, self.device, self.batch_frames, self.batch_pixels)
        found: list[tuple[Tensor, Faces]] = []
        sharpness: list[Tensor] = []
        outputs: dict[str, list[Tensor]] = {model.slot: [] for model in models if model.slot != "face"}
        stored = _Stored(clippings, chunks, self.device) if "face" in brought else None
        again = stored is not None and any(model.input == "detector" for model in models)
        for batch in face_batches(self._find(pieces, stored, again, found), self.batch_faces):
            self.stopwatch.batch(len(batch), self.batch_faces)
            if stored is None:
                sharpness.append(crops.sharpness(batch.input("crops112", None)))
            for model in models:
                if model.slot != "face":
                    outputs[model.slot].append(self._run(model, batch))
        return _collect(clippings, found, sharpness, outputs, with_faces=stored is None)

    def _find(
        self, pieces: Iterable[Piece], stored: "_Stored | None", again: bool, found: list[tuple[Tensor, Faces]]
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


def _alike(chunks: pa.Table, hosted: Sequence[str]) -> list[list[int]]:
    """Rows that ask for the same slots and bring the same results, and end without an error before any frame."""
    groups: dict[tuple, list[int]] = {}
    asked = chunks["slots"].to_pylist()
    brought = {name: chunks[name].is_null().to_pylist() for name in ("face", "landmarks")}
    for row in range(chunks.num_rows):
        slots = tuple(slot for slot in asked[row] or () if slot in hosted)
        if slots:
            groups.setdefault((slots, brought["face"][row], brought["landmarks"][row]), []).append(row)
    return list(groups.values())


def _clippings(chunks: pa.Table) -> list[Clipping]:
    counts = chunks["frames"].combine_chunks().value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    columns = {name: chunks[name].to_pylist() for name in ("height", "width", "matrix", "full_range")}
    made = []
    for row in range(chunks.num_rows):
        buffer = chunks["planes"][row].as_buffer()
        planes = np.frombuffer(buffer, np.uint8) if buffer is not None else np.empty(0, np.uint8)
        made.append(
            Clipping(
                planes=planes,
                count=int(counts[row]),
                height=columns["height"][row] or 0,
                width=columns["width"][row] or 0,
                matrix=columns["matrix"][row] or "bt601",
                full_range=bool(columns["full_range"][row]),
                offset=int(offsets[row]),
            )
        )
    return made


class _Stored:
    """The boxes, and perhaps landmarks, that the chunks of a call bring with them."""

    def __init__(self, clippings: Sequence[Clipping], chunks: pa.Table, device: torch.device) -> None:
        self.device = device
        self.frame_N, self.faces_NW = _flat_faces(clippings, chunks, "face", FACE_WIDTH)
        self.landmarks_N136 = None
        if chunks["landmarks"].null_count == 0:
            _, self.landmarks_N136 = _flat_faces(clippings, chunks, "landmarks", 136)

    def faces(self, piece: Piece) -> Faces:
        """Those whose frames lie in a piece, in the order of its frames; faces of a frame keep their order."""
        frame_B = piece.frame_B.cpu().numpy()  # rises, since chunks are laid end to end
        row_N = np.searchsorted(frame_B, self.frame_N)
        mine = np.flatnonzero(frame_B[np.minimum(row_N, len(frame_B) - 1)] == self.frame_N)
        mine = mine[np.argsort(row_N[mine], kind="stable")]
        values = torch.from_numpy(self.faces_NW[mine]).to(self.device)
        landmarks = None
        if self.landmarks_N136 is not None:
            landmarks = torch.from_numpy(self.landmarks_N136[mine]).to(self.device).reshape(-1, 68, 2)
        rows = torch.from_numpy(row_N[mine]).to(self.device)
        return Faces(rows, values[:, :4], values[:, 4], values[:, 5:15].reshape(-1, 5, 2), landmarks)


def _flat_faces(
    clippings: Sequence[Clipping], chunks: pa.Table, slot: str, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frame (within the call) and values of every face that the rows bring for a slot."""
    frames = [
        np.asarray(index, np.int64) + c.offset for c, index in zip(clippings, _lists(chunks["face_index"]), strict=True)
    ]
    values = [np.asarray(v, np.float32).reshape(-1, width) for v in _lists(chunks[slot])]
    return np.concatenate(frames), np.concatenate(values)


def _collect(
    clippings: Sequence[Clipping],
    found: Sequence[tuple[Tensor, Faces]],
    sharpness: Sequence[Tensor],
    outputs: Mapping[str, Sequence[Tensor]],
    with_faces: bool,
) -> list[dict[str, np.ndarray]]:
    """Bring all results to the host at once and deal them out to the chunks, faces in the order of their frames."""
    frame_N = torch.cat([frame for frame, _ in found])
    boxes = [
        torch.cat(
            [
                faces.boxes_N4,
                faces.scores_N[:, None],
                faces.boxes_N4.new_full((len(faces), 10), float("nan"))
                if faces.points_N52 is None
                else faces.points_N52.reshape(-1, 10),
            ],
            dim=1,
        )
        for _, faces in found
    ]
    tensors = {}
    if with_faces:
        boxes_NV = torch.cat(boxes)
        sharpness_N = torch.cat(list(sharpness)) if sharpness else boxes_NV.new_empty(0)
        tensors["face"] = torch.cat([boxes_NV, sharpness_N[:, None]], dim=1)
    # the width of a slot without a single face is not known; its lists are empty, so any will do
    tensors |= {
        slot: torch.cat(list(parts)) if parts else frame_N.new_empty(0, 1).float() for slot, parts in outputs.items()
    }
    host = {name: tensor.to("cpu", non_blocking=True) for name, tensor in {"frame": frame_N, **tensors}.items()}
    if frame_N.is_cuda:
        torch.cuda.synchronize()
    frames = host["frame"].numpy()
    order = np.argsort(frames, kind="stable")
    starts = np.searchsorted(
        frames[order], [c.offset for c in clippings] + [clippings[-1].offset + clippings[-1].count]
    )
    results = []
    for clipping, low, high in zip(clippings, starts[:-1], starts[1:], strict=True):
        mine = order[low:high]
        result = {"face_index": (frames[mine] - clipping.offset).astype(np.int32)}
        result |= {name: host[name].numpy()[mine] for name in tensors}
        results.append(result)
    return results


def _empty(chunks: pa.Table, slots: Sequence[str], brought: set[str]) -> list[dict[str, np.ndarray]]:
    result: dict[str, np.ndarray] = {slot: np.empty(0, np.float32) for slot in slots}
    if "face" not in brought:
        result["face_index"] = np.empty(0, np.int32)
    return [result for _ in range(chunks.num_rows)]


def _lists(column: pa.ChunkedArray) -> list[np.ndarray | None]:
    """The lists of a list column as arrays, None where null."""
    return [None if not item.is_valid else item.values.to_numpy(zero_copy_only=False) for item in column]


def _to_lists(values: Sequence[np.ndarray | None], kind: pa.DataType) -> pa.Array:
    """A list column from one array per row (flattened), None for null."""
    dtype = kind.value_type.to_pandas_dtype()
    flat = [np.asarray(v, dtype).ravel() for v in values if v is not None]
    lengths = np.array([0 if v is None else np.asarray(v).size for v in values], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    mask = pa.array([v is None for v in values])
    child = pa.array(np.concatenate(flat) if flat else np.empty(0, dtype), kind.value_type)
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), child, mask=mask)
