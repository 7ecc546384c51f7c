"""The tensors of one call: frames of every size in pieces, the faces found in them, and what the models say of them."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.ops import crops
from actors.ops.color import unpack_planes, yuv420_to_rgb
from actors.ops.hog import HogFeatures, hog_features

_SAME_FACE = 0.5  # overlap at which two boxes of one frame are one face

#: kind of crop -> side in pixels, and how far it reaches beyond the box (pyfeat_detector.md section 3.1)
CROPS = {
    "crops112": (112, crops.EXPAND_112),
    "crops224": (224, crops.EXPAND_224),
    "wide224": (224, crops.EXPAND_112),
}


@dataclass(frozen=True)
class Clipping:
    """The frames of one chunk as they travel: planar YUV 4:2:0.

    Attributes:
        planes: uint8, per frame Y, U, V end to end.
        count: frames.
        height, width: of every frame, pixels.
        matrix: bt601, bt709 or bt2020.
        full_range: luma 0-255.
        offset: number of its first frame within the call.
    """

    planes: np.ndarray
    count: int
    height: int
    width: int
    matrix: str
    full_range: bool
    offset: int


@dataclass(frozen=True)
class Piece:
    """Frames of one size on the device.

    Attributes:
        frames_BCHW: uint8 RGB.
        frame_B: number of each frame within the call, int64.
    """

    frames_BCHW: Tensor
    frame_B: Tensor


@dataclass(frozen=True)
class Faces:
    """The faces of one piece, in its frames' order, within a frame in falling score.

    Attributes:
        row_N: index into the piece's frames, int64.
        boxes_N4: x1, y1, x2, y2 in pixels of the frame, float32.
        scores_N: float32, NaN where the model has none.
        points_N52: five points in pixels, or None.
        landmarks_NK2: 68 points in pixels that an earlier pool or run found, or None.
        poses_N6: head poses that the face model gave, or None.
    """

    row_N: Tensor
    boxes_N4: Tensor
    scores_N: Tensor
    points_N52: Tensor | None
    landmarks_NK2: Tensor | None = None
    poses_N6: Tensor | None = None

    def __len__(self) -> int:
        return len(self.row_N)

    def part(self, low: int, high: int) -> "Faces":
        """The faces from `low` up to `high`."""
        fields = (self.row_N, self.boxes_N4, self.scores_N, self.points_N52, self.landmarks_NK2, self.poses_N6)
        return Faces(*(None if field is None else field[low:high] for field in fields))  # type: ignore[arg-type]


def match_poses(faces: Faces, found: Faces) -> Tensor:
    """The poses of faces that were found once more: each takes that of the box that overlaps it most.

    Args:
        faces: stored faces of a piece, N of them.
        found: what the detector finds in the same frames, with poses.

    Returns:
        (N, 6) float32; NaN for a face that no box overlaps by half (intersection over union).
    """
    poses_N6 = faces.boxes_N4.new_full((len(faces), 6), float("nan"))
    if found.poses_N6 is None or not len(faces) or not len(found):
        return poses_N6
    from torchvision.ops import box_iou  # seconds to import, and of use to one model alone

    overlap_NM = box_iou(faces.boxes_N4, found.boxes_N4) * (faces.row_N[:, None] == found.row_N)
    best_N, place_N = overlap_NM.max(1)
    return torch.where((best_N >= _SAME_FACE)[:, None], found.poses_N6[place_N], poses_N6)


def make_pieces(
    chunks: Sequence[Clipping],
    device: torch.device,
    batch_frames: int,
    batch_pixels: int,
    *,
    lane: int = 0,
    lanes: int = 1,
) -> Iterator[Piece]:
    """Move the frames of all chunks to the device and convert them to RGB, in pieces of one size and color space.

    Frames of different clips share a piece if they have the same size; the bytes go up as they are, half those of RGB.
    A piece has at most `batch_frames` frames and `batch_pixels` pixels, but at least one frame. Pieces are made one by
    one, so that only those live whose faces wait for their batch to fill. Of several lanes each gets every so manyth
    piece, the same ones at every call, and as many as the others if the frames allow it.
    """
    groups: dict[tuple[int, int, str, bool], list[Clipping]] = {}
    for chunk in chunks:
        if chunk.count:
            groups.setdefault((chunk.height, chunk.width, chunk.matrix, chunk.full_range), []).append(chunk)
    for (height, width, matrix, full_range), members in groups.items():
        size = height * width + 2 * ((height + 1) // 2) * ((width + 1) // 2)
        most = max(1, min(batch_frames, batch_pixels // (height * width)))
        frame_B = np.concatenate([np.arange(c.offset, c.offset + c.count) for c in members])
        with warnings.catch_warnings():
            # frames lie read-only in Ray's shared memory; they are only read here
            warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable")
            planes = [torch.from_numpy(c.planes).view(c.count, size) for c in members]
        rounds = math.ceil(len(frame_B) / (most * lanes))
        # alone, a lane fills its pieces; beside others it takes smaller ones, so that all end at the same time
        step = most if lanes == 1 else math.ceil(len(frame_B) / (rounds * lanes))
        for low in range(lane * step, len(frame_B), lanes * step):
            part = _rows(planes, low, min(low + step, len(frame_B))).to(device, non_blocking=True)
            y, u, v = unpack_planes(part.flatten(), len(part), height, width)
            yield Piece(
                yuv420_to_rgb(y, u, v, matrix, full_range), torch.from_numpy(frame_B[low : low + len(part)]).to(device)
            )


def _rows(parts: Sequence[Tensor], low: int, high: int) -> Tensor:
    """Rows low..high of the parts laid end to end; a view where one part holds them all."""
    taken = []
    for part in parts:
        if low < len(part) and high > 0:
            taken.append(part[max(low, 0) : high])
        low, high = low - len(part), high - len(part)
    return taken[0] if len(taken) == 1 else torch.cat(taken)


class FaceBatch:
    """Up to `batch_faces` faces, of several pieces, and their crops; a crop is made when a model first asks for it."""

    def __init__(self, parts: Sequence[tuple[Piece, Faces]]) -> None:
        self.parts = parts
        self.boxes_N4 = torch.cat([faces.boxes_N4 for _, faces in parts])
        stored = [faces.landmarks_NK2 for _, faces in parts if faces.landmarks_NK2 is not None]
        self.landmarks_NK2 = torch.cat(stored) if stored else None
        self._normalized_N136: Tensor | None = None
        self._shown_N: Tensor | None = None
        self._crops: dict[str, Tensor] = {}
        self._hog: HogFeatures | None = None

    def __len__(self) -> int:
        return len(self.boxes_N4)

    def input(self, kind: str, align_on: str | None) -> Any:
        """What a model reads, by the kinds of catalog.INPUTS; the forms are in actors/models/__init__.py."""
        if kind == "landmarks":
            return self._need_landmarks().where(self._shown()[:, None, None], float("nan"))
        if kind == "detector":
            return self._poses()
        if kind == "hog112":
            if self._hog is None:  # action units and emotions share it
                landmarks_NK2 = self._landmarks_in_crop(112).where(self._shown()[:, None, None], float("nan"))
                self._hog = hog_features(self.input("crops112", None), landmarks_NK2)
            return self._hog
        if kind not in self._crops:
            self._crops[kind] = self._aligned(align_on) if kind == "aligned112" else self._cropped(kind)
        return self._crops[kind]

    def set_landmarks(self, normalized_N136: Tensor) -> Tensor:
        """Keep landmarks in fractions of the crop; returns them in pixels of the frame, N x 68 x 2."""
        boxes = crops.crop_boxes(self.boxes_N4, crops.EXPAND_112)
        self._normalized_N136, self._shown_N = normalized_N136, None
        self.landmarks_NK2 = crops.landmarks_to_frame(normalized_N136, boxes)
        return self.landmarks_NK2

    def _need_landmarks(self) -> Tensor:
        if self.landmarks_NK2 is None:
            raise RuntimeError("a model asked for landmarks before the landmark model ran: the bundle's order is wrong")
        return self.landmarks_NK2

    def _shown(self) -> Tensor:
        """Faces whose landmarks can be judged, bool N; models get NaN for the others, and so give NaN."""
        if self._shown_N is None:
            sizes = [
                torch.stack([self.boxes_N4.new_full((len(faces),), side) for side in piece.frames_BCHW.shape[:1:-1]], 1)
                for piece, faces in self.parts
            ]
            self._shown_N = crops.show_a_face(self._need_landmarks(), torch.cat(sizes))
        return self._shown_N

    def _landmarks_in_crop(self, size: int) -> Tensor:
        """Landmarks in pixels of a crop, N x 68 x 2: as the model gave them, else out of those stored for the frame."""
        if self._normalized_N136 is not None:
            return self._normalized_N136.unflatten(1, (-1, 2)) * size
        boxes = crops.crop_boxes(self.boxes_N4, crops.EXPAND_112)
        return crops.landmarks_to_crop(self._need_landmarks(), boxes) * size

    def _poses(self) -> Tensor:
        given = [
            faces.boxes_N4.new_full((len(faces), 6), float("nan")) if faces.poses_N6 is None else faces.poses_N6
            for _, faces in self.parts
        ]
        return torch.cat(given)

    def _cropped(self, kind: str) -> Tensor:
        size, expand = CROPS[kind]
        return torch.cat(
            [crops.crop_faces(p.frames_BCHW, f.row_N, f.boxes_N4, size=size, expand=expand) for p, f in self.parts]
        )

    def _aligned(self, align_on: str | None) -> Tensor:
        low, aligned = 0, []
        for piece, faces in self.parts:
            if align_on == "landmarks":
                points = crops.five_points(self.input("landmarks", None)[low : low + len(faces)])
            elif faces.points_N52 is not None:
                points = faces.points_N52
            else:
                raise RuntimeError(
                    "a model asked for faces aligned on the detector's points, and the detector gave none"
                )
            aligned.append(crops.align_faces(piece.frames_BCHW, faces.row_N, points, size=112))
            low += len(faces)
        return torch.cat(aligned)


def face_batches(found: Iterable[tuple[Piece, Faces]], batch_faces: int) -> Iterator[FaceBatch]:
    """Deal the faces of all pieces, in their order, out to batches; pieces are drawn only as batches need them."""
    parts: list[tuple[Piece, Faces]] = []
    held = 0
    for piece, faces in found:
        low = 0
        while low < len(faces):
            high = min(len(faces), low + batch_faces - held)
            parts.append((piece, faces.part(low, high)))
            held += high - low
            low = high
            if held == batch_faces:
                yield FaceBatch(parts)
                parts, held = [], 0
    if held:
        yield FaceBatch(parts)
