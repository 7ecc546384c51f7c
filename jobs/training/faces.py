"""Faces cut out with a wide margin, with the teachers' outputs: computed once, used in every step.

Shapes: N faces, K landmarks, C H W channels, rows, columns.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.ops.crops import align_faces, crop_faces
from jobs.training import teachers as teach
from jobs.training.material import Scene
from jobs.training.teachers import Teachers

SIDE = 192  # px of a cut-out
REACH = 2.0  # its side in units of the longer side of the box
LEAST = 28  # px, shorter side of a box that is taken


@dataclass(frozen=True)
class Faces:
    """N faces in cut-outs of their own; all positions are pixels of the cut-out.

    Attributes:
        names: scene of each.
        held: bool (N,): kept out of training.
        crops_NCHW: uint8 RGB, SIDE pixels.
        boxes_N4, points_N52: of the detector.
        landmarks_NK2: 68 points.
        pose_N3: pitch, roll, yaw in radians.
        gaze_N3: unit vectors, see `estimate_gaze`.
        emotions_N7: logits.
        embeddings_ND: of unit length.
    """

    names: list[str]
    held: np.ndarray
    crops_NCHW: Tensor
    boxes_N4: Tensor
    points_N52: Tensor
    landmarks_NK2: Tensor
    pose_N3: Tensor
    gaze_N3: Tensor
    emotions_N7: Tensor
    embeddings_ND: Tensor


def cut_out(frame_CHW: Tensor, boxes_N4: Tensor, points_N52: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Square cut-outs of the faces of a frame, uint8, and boxes and points in their pixels."""
    size_N2 = boxes_N4[:, 2:] - boxes_N4[:, :2]
    side_N1 = size_N2.max(1, keepdim=True).values * REACH
    center_N2 = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    corner_N2 = center_N2 - side_N1 / 2
    scale_N1 = SIDE / side_N1
    unit = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    from_NK2 = corner_N2[:, None] + side_N1[:, None] * unit
    crops_NCHW = torch.cat(
        [teach.warp_crops(frame_CHW[None].float(), points[None], (unit * SIDE)[None], SIDE) for points in from_NK2]
    )
    boxes_N4 = (boxes_N4 - corner_N2.repeat(1, 2)) * scale_N1
    return crops_NCHW.round().clamp(0, 255).byte(), boxes_N4, (points_N52 - corner_N2[:, None]) * scale_N1[:, None]


@torch.inference_mode()
def ask_teachers(crops_NCHW: Tensor, boxes_N4: Tensor, points_N52: Tensor, teachers: Teachers) -> dict[str, Tensor]:
    """What the teachers say of cut-outs: the fields of Faces from `landmarks_NK2` on."""
    rows_N = torch.arange(len(crops_NCHW))
    landmarks_NK2 = teach.find_landmarks(teachers.landmarks, crops_NCHW, boxes_N4)
    pose_N3 = teach.estimate_pose(teachers.pose, crop_faces(crops_NCHW, rows_N, boxes_N4, size=60, expand=1.0))
    aligned = align_faces(crops_NCHW, rows_N, points_N52)
    return {
        "landmarks_NK2": landmarks_NK2,
        "pose_N3": pose_N3,
        "gaze_N3": teach.estimate_gaze(teachers.gaze, crops_NCHW.float() / 255, landmarks_NK2 / SIDE, pose_N3),
        "emotions_N7": teach.classify_emotions(teachers.emotions, aligned),
        "embeddings_ND": torch.nn.functional.normalize(teachers.identity((aligned - 0.5) / 0.5).flatten(1)),
    }


def collect_faces(scenes: Iterable[tuple[Scene, np.ndarray, np.ndarray, np.ndarray]], teachers: Teachers) -> Faces:
    """Cut out all faces that are sure and large enough, and ask the teachers.

    Args:
        scenes: each with the boxes, scores and points that the face teacher found.
        teachers: all of them.
    """
    names: list[str] = []
    held: list[bool] = []
    cut: list[tuple[Tensor, Tensor, Tensor]] = []
    for scene, boxes, scores, points in scenes:
        good = (scores > 0.7) & ((boxes[:, 2:] - boxes[:, :2]).min(1) >= LEAST)
        if not good.any():
            continue
        frame_CHW = torch.from_numpy(np.ascontiguousarray(scene.rgb_HWC)).permute(2, 0, 1)
        cut.append(cut_out(frame_CHW, torch.from_numpy(boxes[good]), torch.from_numpy(points[good])))
        names += [scene.name] * int(good.sum())
        held += [scene.held] * int(good.sum())
    crops, boxes_N4, points_N52 = (torch.cat(parts) for parts in zip(*cut, strict=True))
    said = [
        ask_teachers(crops[low : low + 16], boxes_N4[low : low + 16], points_N52[low : low + 16], teachers)
        for low in range(0, len(crops), 16)
    ]
    answers = {key: torch.cat([part[key] for part in said]) for key in said[0]}
    return Faces(names, np.array(held), crops, boxes_N4, points_N52, **answers)
