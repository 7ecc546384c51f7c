"""Faces on their way to the models: those found in a batch of frames, and batches of faces with their crops."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actors.ops import crops
from actors.ops.hog import HogFeatures, hog_features
from actors.runtime.frames import FrameBatch

_SAME_FACE_IOU = 0.5  # at which two boxes of one frame are one face

#: kind of crop -> side in pixels, and growth of the box (docs/reference/pyfeat.md section 3.1)
CROPS = {
    "crops112": (112, crops.EXPAND_112),
    "crops224": (224, crops.EXPAND_224),
    "wide224": (224, crops.EXPAND_112),
}


@dataclass(frozen=True)
class Faces:
    """The faces of a batch of frames, in the order of its frames, within a frame in falling score.

    Attributes:
        row_N: int64, index into the batch's frames.
        boxes_N4: float32 px of the frame: left, top, right, bottom.
        scores_N: float32, NaN where the model has none.
        points_N52: float32 px of the frame, five points as crops.ARCFACE_POINTS; None from a model without.
        landmarks_NK2: float32 px of the frame, 68 points that an earlier pool or run found, or None.
        poses_N6: float32 head poses that the face model gave (pitch, roll, yaw in rad, x, y, z), or None.
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
    """Poses of stored faces that were detected once more: each takes that of the box that overlaps it most.

    Args:
        faces: stored faces of a batch of frames, N of them.
        found: detections in the same frames, with poses.

    Returns:
        (N, 6) float32; NaN for a face that no box overlaps by half (intersection over union).
    """
    poses_N6 = faces.boxes_N4.new_full((len(faces), 6), float("nan"))
    if found.poses_N6 is None or not len(faces) or not len(found):
        return poses_N6
    from torchvision.ops import box_iou  # seconds to import, and of use to one model alone

    iou_NM = box_iou(faces.boxes_N4, found.boxes_N4) * (faces.row_N[:, None] == found.row_N)
    best_N, index_N = iou_NM.max(1)
    return torch.where((best_N >= _SAME_FACE_IOU)[:, None], found.poses_N6[index_N], poses_N6)


class FaceBatch:
    """Some faces of several batches of frames, and their crops; a crop is made when a model first asks for it."""

    def __init__(self, parts: Sequence[tuple[FrameBatch, Faces]]) -> None:
        """Join the faces of batches of frames; at least one face."""
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
        """The input of a model.

        Args:
            kind: of catalog.INPUTS but `frames`; shapes and units of each are in actors/models/__init__.py.
            align_on: for aligned112: `detector` or `landmarks`.

        Raises:
            RuntimeError: landmarks or the detector's points are asked for and there are none.
        """
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
        """Keep the landmarks of all faces of this batch.

        Args:
            normalized_N136: float32 x0, y0, x1, y1, ... in fractions of the crop.

        Returns:
            float32 (N, 68, 2) px of the frame.
        """
        boxes = crops.crop_boxes(self.boxes_N4, crops.EXPAND_112)
        self._normalized_N136, self._shown_N = normalized_N136, None
        self.landmarks_NK2 = crops.landmarks_to_frame(normalized_N136, boxes)
        return self.landmarks_NK2

    def _need_landmarks(self) -> Tensor:
        if self.landmarks_NK2 is None:
            raise RuntimeError("a model asked for landmarks before the landmark model ran: the bundle's order is wrong")
        return self.landmarks_NK2

    def _shown(self) -> Tensor:
        """Faces whose landmarks are meaningful, bool (N,); models get NaN for the others, and so return NaN."""
        if self._shown_N is None:
            sizes = [
                torch.stack(
                    [self.boxes_N4.new_full((len(faces),), side) for side in frames.frames_BCHW.shape[:1:-1]], 1
                )
                for frames, faces in self.parts
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
            [crops.crop_faces(b.frames_BCHW, f.row_N, f.boxes_N4, size=size, expand=expand) for b, f in self.parts]
        )

    def _aligned(self, align_on: str | None) -> Tensor:
        low, aligned = 0, []
        for frames, faces in self.parts:
            if align_on == "landmarks":
                points = crops.five_points(self.input("landmarks", None)[low : low + len(faces)])
            elif faces.points_N52 is not None:
                points = faces.points_N52
            else:
                raise RuntimeError(
                    "a model asked for faces aligned on the detector's points, and the detector gave none"
                )
            aligned.append(crops.align_faces(frames.frames_BCHW, faces.row_N, points, size=112))
            low += len(faces)
        return torch.cat(aligned)


def make_face_batches(found: Iterable[tuple[FrameBatch, Faces]], batch_faces: int) -> Iterator[FaceBatch]:
    """Deal the faces of all batches of frames, in their order, out to batches of faces.

    Batches of frames are drawn from `found` only as they are needed.

    Args:
        found: batches of frames, each with its faces.
        batch_faces: faces of a batch; the last may have fewer, none is empty.
    """
    parts: list[tuple[FrameBatch, Faces]] = []
    held = 0
    for frames, faces in found:
        low = 0
        while low < len(faces):
            high = min(len(faces), low + batch_faces - held)
            parts.append((frames, faces.part(low, high)))
            held += high - low
            low = high
            if held == batch_faces:
                yield FaceBatch(parts)
                parts, held = [], 0
    if held:
        yield FaceBatch(parts)
