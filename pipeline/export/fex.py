"""The layout of py-feat's tables (`Fex`, version 2.0.3): 695 columns for a video, one row per face.

Names, order, dtypes and units are those of docs/reference/pyfeat.md section 10. What differs from our own tables: the
box is the crop (1.2 times the detector's box, in whole pixels) as corner and size; landmarks are all x, then all y; a
frame without a face has a row of its own, without numbers and with a score of 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline import schema
from pipeline.arrays import columns_to_matrix

_EXPAND = np.float32(1.2)
_LANDMARKS, _EMBEDDING = 68, 512

#: slot -> columns of the layout that it fills, in the order of the slot's numbers but for `face` and `landmarks`
COLUMNS_OF_SLOT: dict[str, tuple[str, ...]] = {
    "face": ("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore"),
    "landmarks": (*(f"x_{i}" for i in range(_LANDMARKS)), *(f"y_{i}" for i in range(_LANDMARKS))),
    "pose": ("Pitch", "Roll", "Yaw", "X", "Y", "Z"),
    "action_units": tuple(f"AU{number:02d}" for number in schema.AU_NUMBERS),
    "emotions": schema.EMOTIONS,
    "embeddings": tuple(f"Identity_{i}" for i in range(1, _EMBEDDING + 1)),
    "gaze": ("gaze_pitch", "gaze_yaw", "gaze_angle"),
}

#: all columns, in this order; float32 are the numbers of the models
FEX = pa.schema(
    [
        *((name, pa.float32()) for names in COLUMNS_OF_SLOT.values() for name in names),
        ("FrameHeight", pa.float64()),
        ("FrameWidth", pa.float64()),
        ("input", pa.string()),
        ("frame", pa.int64()),
        ("approx_time", pa.string()),
        ("Identity", pa.string()),
    ]
)


@dataclass(frozen=True)
class FexVideo:
    """The video, as rows of the layout name it.

    Attributes:
        name: for the column `input`.
        height, width: of a frame as displayed, pixels.
        fps: average rate; None: `approx_time` stays empty.
    """

    name: str
    height: int
    width: int
    fps: float | None


def fex_rows(
    video: FexVideo, frames: Sequence[int] | np.ndarray, faces: pa.Table, labels: Sequence[str | None]
) -> pa.Table:
    """Rows of one clip, or of some frames of it, in py-feat's layout.

    Args:
        video: the video.
        frames: indices of the annotated frames, rising; each gets a row for each of its faces, or one without a face.
        faces: the faces in these frames, any order: `schema.slot_schema("face")` and the columns of other slots. A
            slot whose columns are missing, or null, gives nulls.
        labels: `Identity` of each row of `faces`.

    Returns:
        Table with schema FEX, ordered by frame and face; null where not computed.
    """
    frame_N = faces["frame"].to_numpy().astype(np.int64)
    order_N = np.lexsort([faces["face"].to_numpy(), frame_N])
    face_frame_N = frame_N[order_N]
    frames_S = np.asarray(frames, np.int64)
    empty_S = frames_S[~np.isin(frames_S, face_frame_N)]
    # row of `faces` for each row of the result; -1: a frame without a face
    frame_R = np.concatenate([face_frame_N, empty_S])
    row_R = np.concatenate([order_N, np.full(len(empty_S), -1)])
    at = np.argsort(frame_R, kind="stable")
    frame_R, row_R = frame_R[at], row_R[at]

    columns: list[pa.Array] = []
    for slot, names in COLUMNS_OF_SLOT.items():
        values_ND = _slot_values(slot, faces, len(names))
        values_RD = np.concatenate([values_ND, np.full((1, len(names)), np.nan, np.float32)])[row_R]
        if slot == "face":
            values_RD[row_R < 0, 4] = 0.0
        columns += [pa.array(column, pa.float32(), mask=np.isnan(column)) for column in values_RD.T]
    count = len(row_R)
    columns += [
        pa.array(np.full(count, video.height, np.float64)),
        pa.array(np.full(count, video.width, np.float64)),
        pa.array([video.name] * count, pa.string()),
        pa.array(frame_R, pa.int64()),
        pa.array([approx_time(frame, video.fps) for frame in frame_R.tolist()], pa.string()),
        pa.array([labels[row] if row >= 0 else None for row in row_R.tolist()], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=FEX)


def approx_time(frame: int, fps: float | None) -> str | None:
    """`MM:SS` of a frame by the average rate, cut to whole seconds; minutes go on past 59. None without a rate."""
    if not fps:
        return None
    minutes, seconds = divmod(int(frame / fps), 60)
    return f"{minutes:02d}:{seconds:02d}"


def face_rectangles(boxes_N4: np.ndarray) -> np.ndarray:
    """The reference's FaceRect of detector boxes: the crop of the landmark models.

    Args:
        boxes_N4: float32, left, top, right, bottom in pixels.

    Returns:
        (N, 4) float32: left, top, width, height of the box grown 1.2 times about its center, each edge rounded half to
        even (docs/reference/pyfeat.md sections 3.1 and 3.3); never clipped to the frame.
    """
    low_N2, high_N2 = boxes_N4[:, :2], boxes_N4[:, 2:]
    center_N2, half_N2 = (low_N2 + high_N2) / 2, (high_N2 - low_N2) * _EXPAND / 2
    low_N2, high_N2 = np.rint(center_N2 - half_N2), np.rint(center_N2 + half_N2)
    return np.concatenate([low_N2, high_N2 - low_N2], axis=1).astype(np.float32)


def embeddings_of(faces: pa.Table) -> np.ndarray:
    """(N, 512) float32: the embedding of each face (`fex_rows`), NaN where there is none."""
    return _slot_values("embeddings", faces, _EMBEDDING)


def _slot_values(slot: str, faces: pa.Table, width: int) -> np.ndarray:
    """(N, width) float32: the slot's numbers for each face, in the layout's order; NaN where there is none."""
    names = [f"box_{edge}" for edge in ("x1", "y1", "x2", "y2")] + ["score"]
    if slot != "face":
        names = [column.name for column in schema.SLOT_COLUMNS[slot]]
    if names[0] not in faces.column_names:
        return np.full((faces.num_rows, width), np.nan, np.float32)
    values_NW = columns_to_matrix(faces, names)
    if slot == "face":
        values_NW[:, :4] = face_rectangles(values_NW[:, :4])
    elif slot == "landmarks":
        values_NW = np.concatenate([values_NW[:, 0::2], values_NW[:, 1::2]], axis=1)
    return values_NW
