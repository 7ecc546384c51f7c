"""The published small networks that `tiny` learns from, brought to the project's conventions.

Shapes: N faces, C H W channels, rows, columns.
"""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.crops import similarity
from actors.models.mobilefacenet import MobileFaceNet, build_mobilefacenet
from actors.models.retinaface import RetinaFace, build_retinaface_mnet025

#: columns of the emotion teacher (angry, disgust, fearful, happy, neutral, sad, surprised) in the order of the schema
_EMOTIONS = [0, 1, 2, 3, 5, 6, 4]
_EYE = 60  # px, side of the gaze teacher's eye pictures
_EYE_REACH = 1.8  # times the distance of the eye's corners, as in Open Model Zoo's demo
#: columns of mirrored 68 landmarks
MIRROR_68 = [
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46,
    39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1),
]  # fmt: skip


@dataclass(frozen=True)
class Teachers:
    """All teachers, in eval mode."""

    face: RetinaFace
    landmarks: MobileFaceNet
    pose: nn.Module
    emotions: nn.Module
    gaze: nn.Module
    identity: nn.Module


def load_teachers(models: Path) -> Teachers:
    """Load the teachers out of the folder of published weights."""
    spec = importlib.util.spec_from_file_location("graphnet", models / "graphnet.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"no graphnet.py in {models}")
    graphnet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(graphnet)

    def graph(stem: str) -> nn.Module:
        return graphnet.GraphNet.load(str(models / stem))

    return Teachers(
        face=build_retinaface_mnet025({"weights": models / "retinaface_mnet025.safetensors"}),
        landmarks=build_mobilefacenet({"weights": models / "mobilefacenet_model_best.pth.tar"}),
        pose=graph("head-pose-estimation-adas-0001"),
        emotions=graph("fer_mobilefacenet_opencvzoo"),
        gaze=graph("gaze-estimation-adas-0002"),
        identity=graph("mbf512_espdl"),
    )


def find_landmarks(net: MobileFaceNet, crops_NCHW: Tensor) -> Tensor:
    """68 landmarks, the mean of the crop's and of its mirror image's: (N, 68, 2) in fractions of the crop."""
    straight = net(crops_NCHW).unflatten(1, (68, 2))
    mirrored = net(crops_NCHW.flip(3)).unflatten(1, (68, 2))[:, MIRROR_68]
    return (straight + torch.stack([1 - mirrored[..., 0], mirrored[..., 1]], dim=-1)) / 2


def estimate_pose(net: nn.Module, boxes_NCHW: Tensor) -> Tensor:
    """Pitch, roll, yaw in radians with the signs of `pipeline/schema.py`.

    Args:
        net: the teacher.
        boxes_NCHW: float32 RGB [0, 1] of the detector's boxes, (N, 3, 60, 60).

    The teacher's yaw, pitch and roll are degrees; yaw + to the picture's right (the subject's left), pitch + down,
    roll + clockwise in the picture (the subject's left).
    """
    out = net(boxes_NCHW.flip(1) * 255)
    degrees = torch.cat([-out["fc_p"], -out["fc_r"], -out["fc_y"]], dim=1)
    return degrees.reshape(-1, 3) * (math.pi / 180)


def estimate_gaze(net: nn.Module, crops_NCHW: Tensor, landmarks_NK2: Tensor, pose_N3: Tensor) -> Tensor:
    """Unit vectors of the line of sight: x to the picture's right, y up, z away from the camera (so z < 0 towards it).

    As Open Model Zoo's demo: both eyes are cut out upright, the network is told yaw and pitch with a roll of 0, and the
    vector is turned back by the roll.

    Args:
        net: the teacher.
        crops_NCHW: float32 RGB [0, 1].
        landmarks_NK2: 68 points in pixels of the crop.
        pose_N3: pitch, roll, yaw of `estimate_pose`.
    """
    eyes = {}
    corners = {
        "right_eye_image": (36, 39),
        "left_eye_image": (42, 45),
    }  # the subject's right eye is left in the picture
    centre_N2 = landmarks_NK2[:, 42:48].mean(1) - landmarks_NK2[:, 36:42].mean(1)
    angle_N = torch.atan2(centre_N2[:, 1], centre_N2[:, 0])  # of the eye line, clockwise in the picture
    for name, (first, second) in corners.items():
        a_N2, b_N2 = landmarks_NK2[:, first], landmarks_NK2[:, second]
        middle_N2, side_N = (a_N2 + b_N2) / 2, (a_N2 - b_N2).norm(dim=1) * _EYE_REACH
        eyes[name] = _cut(crops_NCHW, middle_N2, side_N, angle_N, _EYE).flip(1) * 255
    degrees = pose_N3 * (180 / math.pi)
    head_N3 = torch.stack([-degrees[:, 2], -degrees[:, 0], torch.zeros_like(angle_N)], dim=1)
    vector_N3 = F.normalize(net(head_pose_angles=head_N3, **eyes).reshape(-1, 3), dim=1)
    return turn_gaze(vector_N3, angle_N)


def turn_gaze(vector_N3: Tensor, angle_N: Tensor) -> Tensor:
    """Gaze vectors of faces that are turned clockwise in the picture by an angle in radians."""
    x, y, z = vector_N3.unbind(1)
    cos, sin = angle_N.cos(), angle_N.sin()
    # y points up, so clockwise in the picture is a negative turn
    return torch.stack([x * cos + y * sin, -x * sin + y * cos, z], dim=1)


def classify_emotions(net: nn.Module, aligned_NCHW: Tensor) -> Tensor:
    """Logits (N, 7) in the order of `schema.EMOTIONS`, the mean of the crop's and of its mirror image's."""
    logits = net((aligned_NCHW - 0.5) / 0.5) + net((aligned_NCHW.flip(3) - 0.5) / 0.5)
    return logits[:, _EMOTIONS] / 2


def _cut(crops_NCHW: Tensor, middle_N2: Tensor, side_N: Tensor, angle_N: Tensor, size: int) -> Tensor:
    """Squares about given points, turned back by an angle, resampled to `size` pixels."""
    unit = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.0, 0.5]])
    cos, sin = angle_N.cos(), angle_N.sin()
    turn_N22 = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    from_NK2 = middle_N2[:, None] + side_N[:, None, None] * (unit @ turn_N22.mT)
    return warp(crops_NCHW, from_NK2, ((unit + 0.5) * size).expand_as(from_NK2), size)


def warp(crops_NCHW: Tensor, from_NK2: Tensor, to_NK2: Tensor, size: int) -> Tensor:
    """Resample so that points of the crops (px, edges at integers) fall near points of the result, by a similarity."""
    height, width = crops_NCHW.shape[-2:]
    a, b, tx, ty = similarity(to_NK2, from_NK2).unbind(1)
    theta = torch.stack([torch.stack([a, -b, tx], -1), torch.stack([b, a, ty], -1)], -2)
    return sample(crops_NCHW, theta, size, width, height)


def sample(crops_NCHW: Tensor, theta_N23: Tensor, size: int, width: int, height: int) -> Tensor:
    """Bilinear samples at theta (x, y, 1), positions in pixels of source and target, black outside."""
    steps = torch.arange(size) + 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    grid_P3 = torch.stack([x.flatten(), y.flatten(), torch.ones(size * size)], -1)
    at_NP2 = grid_P3 @ theta_N23.mT
    at_NP2 = at_NP2 / torch.tensor([width, height]) * 2 - 1
    return F.grid_sample(crops_NCHW, at_NP2.unflatten(1, (size, size)), align_corners=False, padding_mode="zeros")
