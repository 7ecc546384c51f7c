"""Rows of Arrow, as chunks travel (schema.FLOW), to the tensors that models read, and results back to rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from actors.runtime.faces import Faces
from actors.runtime.frames import ChunkFrames, FrameBatch

FACE_WIDTH = 16  # x1 y1 x2 y2, score, five points, sharpness


def rows_by_request(chunks: pa.Table, hosted: Sequence[str]) -> list[list[int]]:
    """Rows that ask for the same slots and bring the same results.

    Args:
        chunks: rows of FLOW.
        hosted: the slots of this actor.

    Returns:
        Indices of rows, group by group; a row that asks for no hosted slot is in none.
    """
    groups: dict[tuple, list[int]] = {}
    asked = chunks["slots"].to_pylist()
    brought = {name: chunks[name].is_null().to_pylist() for name in ("face", "landmarks")}
    for row in range(chunks.num_rows):
        slots = tuple(slot for slot in asked[row] or () if slot in hosted)
        if slots:
            groups.setdefault((slots, brought["face"][row], brought["landmarks"][row]), []).append(row)
    return list(groups.values())


def to_chunk_frames(chunks: pa.Table) -> list[ChunkFrames]:
    """The frames of each row of FLOW, numbered through from the first row to the last; views of the rows' bytes."""
    counts = chunks["frames"].combine_chunks().value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    columns = {name: chunks[name].to_pylist() for name in ("height", "width", "matrix", "full_range")}
    made = []
    for row in range(chunks.num_rows):
        buffer = chunks["planes"][row].as_buffer()
        yuv420 = np.frombuffer(buffer, np.uint8) if buffer is not None else np.empty(0, np.uint8)
        made.append(
            ChunkFrames(
                yuv420=yuv420,
                count=int(counts[row]),
                height=columns["height"][row] or 0,
                width=columns["width"][row] or 0,
                matrix=columns["matrix"][row] or "bt601",
                full_range=bool(columns["full_range"][row]),
                offset=int(offsets[row]),
            )
        )
    return made


@dataclass
class LaneResults:
    """Results of one lane, on the device.

    Attributes:
        found: for each batch of frames, the frame of each face (int64, within the call) and the faces.
        sharpness: for each batch of faces, (N,) float32; see crops.sharpness.
        outputs: slot -> for each batch of faces, (N, width) float32.
    """

    found: list[tuple[Tensor, Faces]] = field(default_factory=list)
    sharpness: list[Tensor] = field(default_factory=list)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)


class StoredFaces:
    """The boxes, and perhaps landmarks, that the chunks of a call bring with them."""

    def __init__(self, frames: Sequence[ChunkFrames], chunks: pa.Table, device: torch.device) -> None:
        """Read them from the rows.

        Args:
            frames: of each row.
            chunks: rows of FLOW, with `face_index` and `face`; landmarks are taken if no row lacks them.
            device: where `faces` puts them.
        """
        self.device = device
        self.frame_N, self.faces_NW = _flat_faces(frames, chunks, "face", FACE_WIDTH)
        self.landmarks_N136 = None
        if chunks["landmarks"].null_count == 0:
            _, self.landmarks_N136 = _flat_faces(frames, chunks, "landmarks", 136)

    def faces(self, frames: FrameBatch) -> Faces:
        """Those of a batch of frames, in the order of its frames; faces of a frame keep their order."""
        frame_B = frames.frame_B.cpu().numpy()  # rises, since chunks are laid end to end
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
    frames: Sequence[ChunkFrames], chunks: pa.Table, slot: str, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frame (within the call) and values of every face that the rows bring for a slot."""
    frame_N = [
        np.asarray(index, np.int64) + c.offset
        for c, index in zip(frames, read_lists(chunks["face_index"]), strict=True)
    ]
    values_NW = [np.asarray(v, np.float32).reshape(-1, width) for v in read_lists(chunks[slot])]
    return np.concatenate(frame_N), np.concatenate(values_NW)


def collect_results(
    chunks: Sequence[ChunkFrames], lanes: Sequence[LaneResults], slots: Sequence[str], with_faces: bool
) -> list[dict[str, np.ndarray]]:
    """Bring all results to the host at once and deal them out to the chunks, faces in the order of their frames.

    Args:
        chunks: the chunks.
        lanes: results of all lanes.
        slots: those whose models read faces.
        with_faces: the boxes are results too, and not what the chunks brought.

    Returns:
        For each chunk: `face_index` (N,) int32, and (N, width) for each slot.
    """
    found = [batch for lane in lanes for batch in lane.found]
    frame_N = torch.cat([frame for frame, _ in found])
    tensors = {}
    if with_faces:
        sharpness = [values for lane in lanes for values in lane.sharpness]
        columns = [torch.cat([_box_columns(faces) for _, faces in found])]
        columns.append((torch.cat(sharpness) if sharpness else columns[0].new_empty(0))[:, None])
        tensors["face"] = torch.cat(columns, dim=1)
    for slot in slots:
        # the width of a slot without a single face is not known; its lists are empty, so any will do
        outputs = [output for lane in lanes for output in lane.outputs.get(slot, ())]
        tensors[slot] = torch.cat(outputs) if outputs else frame_N.new_empty(0, 1).float()
    host = {name: tensor.to("cpu", non_blocking=True) for name, tensor in {"frame": frame_N, **tensors}.items()}
    if frame_N.is_cuda:
        torch.cuda.synchronize()
    frames = host["frame"].numpy()
    order = np.argsort(frames, kind="stable")
    starts = np.searchsorted(frames[order], [c.offset for c in chunks] + [chunks[-1].offset + chunks[-1].count])
    results = []
    for chunk, low, high in zip(chunks, starts[:-1], starts[1:], strict=True):
        mine = order[low:high]
        result = {"face_index": (frames[mine] - chunk.offset).astype(np.int32)}
        result |= {name: host[name].numpy()[mine] for name in tensors}
        results.append(result)
    return results


def _box_columns(faces: Faces) -> Tensor:
    """Box, score and five points, (N, 15)."""
    points_N10 = faces.boxes_N4.new_full((len(faces), 10), float("nan"))
    if faces.points_N52 is not None:
        points_N10 = faces.points_N52.reshape(-1, 10)
    return torch.cat([faces.boxes_N4, faces.scores_N[:, None], points_N10], dim=1)


def empty_results(chunks: pa.Table, slots: Sequence[str], brought: set[str]) -> list[dict[str, np.ndarray]]:
    """Results as of `collect_results` for chunks without frames, or without a model to run.

    Args:
        chunks: rows of FLOW.
        slots: those whose results are empty, and not null.
        brought: slots whose results the rows bring.
    """
    result: dict[str, np.ndarray] = {slot: np.empty(0, np.float32) for slot in slots}
    if "face" not in brought:
        result["face_index"] = np.empty(0, np.int32)
    return [result for _ in range(chunks.num_rows)]


def read_lists(column: pa.ChunkedArray) -> list[np.ndarray | None]:
    """The lists of a list column as arrays, None where null."""
    return [None if not item.is_valid else item.values.to_numpy(zero_copy_only=False) for item in column]


def write_lists(values: Sequence[np.ndarray | None], kind: pa.DataType) -> pa.Array:
    """A list column from one array per row (flattened), None for null.

    Args:
        values: of each row, any shape.
        kind: a large list of numbers.
    """
    dtype = kind.value_type.to_pandas_dtype()
    flat = [np.asarray(v, dtype).ravel() for v in values if v is not None]
    lengths = np.array([0 if v is None else np.asarray(v).size for v in values], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    mask = pa.array([v is None for v in values])
    child = pa.array(np.concatenate(flat) if flat else np.empty(0, dtype), kind.value_type)
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), child, mask=mask)
