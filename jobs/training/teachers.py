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

from actors.models.mobilefacenet import MobileFaceNet, build_mobilefacenet
from actors.models.retinaface import RetinaFace, build_retinaface_mnet025
from actors.models.tiny_gaze import cut_eyes, head_angles, turn
from actors.ops.crops import crop_boxes, crop_faces, landmarks_to_frame, similarity

#: columns of the emotion teacher (angry, disgust, fearful, happy, neutral, sad, surprised) in the order of the schema
_EMOTIONS = [0, 1, 2, 3, 5, 6, 4]
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


def find_landmarks(net: MobileFaceNet, crops_NCHW: Tensor, boxes_N4: Tensor) -> Tensor:
    """68 landmarks (N, 68, 2) in pixels of the crop that each face has to itself.

    On squares about the box the teacher errs by 6.1 % of the distance of the eyes (dlib's faces), on the stretched crop
    that the pipeline cuts by 8.0 %. So: the mean over squares of the box's longer side and of 1.1 times that, and over
    each one's mirror image.

    Args:
        net: the teacher.
        crops_NCHW: uint8 RGB.
        boxes_N4: of the detector, px of the crop.
    """
    center_N2 = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    half_N1 = (boxes_N4[:, 2:] - boxes_N4[:, :2]).max(1, keepdim=True).values / 2
    found = []
    for reach in (1.0, 1.1):
        squares_N4 = torch.cat([center_N2 - half_N1 * reach, center_N2 + half_N1 * reach], 1)
        cut_NCHW = crop_faces(crops_NCHW, torch.arange(len(crops_NCHW)), squares_N4, size=112, expand=1.0)
        straight = net(cut_NCHW).unflatten(1, (68, 2))
        mirrored = net(cut_NCHW.flip(3)).unflatten(1, (68, 2))[:, MIRROR_68]
        both = (straight + torch.stack([1 - mirrored[..., 0], mirrored[..., 1]], dim=-1)) / 2
        found.append(landmarks_to_frame(both.flatten(1), crop_boxes(squares_N4, 1.0)))
    return (found[0] + found[1]) / 2


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
    vector is turned back by the roll. The mean of the picture's and of its mirror image's, which differ by 10 degrees.

    Args:
        net: the teacher.
        crops_NCHW: float32 RGB [0, 1], undistorted.
        landmarks_NK2: 68 points in fractions of the crop.
        pose_N3: pitch, roll, yaw of `estimate_pose`.
    """
    left_NCHW, right_NCHW, angle_N = cut_eyes(crops_NCHW, landmarks_NK2, aspect=1.0)
    straight_N3 = ask_gaze(net, left_NCHW, right_NCHW, pose_N3)["gaze_vector"]
    mirrored_N3 = ask_gaze(net, right_NCHW.flip(3), left_NCHW.flip(3), pose_N3 * torch.tensor([1.0, -1.0, -1.0]))[
        "gaze_vector"
    ] * torch.tensor([-1.0, 1.0, 1.0])
    return turn(F.normalize(F.normalize(straight_N3, dim=1) + F.normalize(mirrored_N3, dim=1), dim=1), angle_N)


def ask_gaze(net: nn.Module, left_NCHW: Tensor, right_NCHW: Tensor, pose_N3: Tensor) -> dict[str, Tensor]:
    """The gaze teacher's outputs for the eyes that are left and right in the picture, RGB [0, 1], upright."""
    # the subject's right eye is left in the picture
    eyes = {"right_eye_image": left_NCHW.flip(1) * 255, "left_eye_image": right_NCHW.flip(1) * 255}
    said = net(head_pose_angles=head_angles(pose_N3), **eyes)
    return said if isinstance(said, dict) else {"gaze_vector": said}


def classify_emotions(net: nn.Module, aligned_NCHW: Tensor) -> Tensor:
    """Logits (N, 7) in the order of `schema.EMOTIONS`, the mean of the crop's and of its mirror image's."""
    logits = net((aligned_NCHW - 0.5) / 0.5) + net((aligned_NCHW.flip(3) - 0.5) / 0.5)
    return logits[:, _EMOTIONS] / 2


def warp_crops(crops_NCHW: Tensor, from_NK2: Tensor, to_NK2: Tensor, size: int) -> Tensor:
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
