"""The gaze network of the bundle `tiny`: reads both eyes, cut upright out of a face's crop, and the head's pose.

In a crop of 112 pixels an eye is 20 wide, too few for a network that reads the whole face and was trained on few
people. So the eyes are cut out at the landmarks of `TinyTraits`, and this network reads nothing else. Its layers have
the sizes of Open Model Zoo's gaze-estimation-adas-0002 (Apache-2.0), from whose feature maps it learned (docs/tiny.md).

Shapes: N faces, K landmarks, C H W channels, rows, columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EYE = 60  # px, side of an eye's picture
_REACH = 1.8  # its side in distances of the eye's corners
#: width of a box over its height, the mean over the training faces: crops are stretched to squares, and a network that
#: is given the crop alone cannot know by how much
BOX_ASPECT = 0.726
_CORNERS = ((36, 39), (42, 45))  # of the eyes, left in the picture first


class TinyGaze(nn.Module):
    """The line of sight from both eyes and the pose."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = _eye_layers(), _eye_layers()
        self.both = nn.Sequential(
            _active(64, 128),
            nn.Conv2d(128, 64, 3, 2, 1),
            _active(64, 128),
            nn.Conv2d(128, 64, 3, 2),
            _active(64, 256),
            nn.Conv2d(256, 512, 3),
        )
        self.head = nn.Sequential(
            nn.Sequential(nn.Linear(515, 320), nn.ReLU()),
            nn.Sequential(nn.Linear(320, 80), nn.ReLU()),
            nn.Linear(80, 3),
        )

    def forward(self, left_NCHW: Tensor, right_NCHW: Tensor, pose_N3: Tensor) -> Tensor:
        """The line of sight of upright eyes.

        Args:
            left_NCHW: the eye that is left in the picture, float32 RGB [0, 1], (N, 3, 60, 60).
            right_NCHW: the other one.
            pose_N3: pitch, roll, yaw in radians, with the signs of pipeline/schema.py.

        Returns:
            Vectors (N, 3) of any length in the dtype of the weights: x to the picture's right, y up, z < 0 toward the
            camera.
        """
        # the layers are named after the subject's eyes, whose left one is right in the picture
        left, right = self.left(centered(right_NCHW)), self.right(centered(left_NCHW))
        features_ND = self.both(torch.cat([left, right], 1)).flatten(1)
        return self.head(torch.cat([features_ND, head_angles(pose_N3)], 1))

    def look(self, crops_NCHW: Tensor, landmarks_NK2: Tensor, pose_N3: Tensor) -> Tensor:
        """The line of sight in a crop, averaged over the crop and its mirror image.

        Args:
            crops_NCHW: float32 RGB [0, 1], (N, 3, 112, 112), cut as `crops112`.
            landmarks_NK2: float32, 68 points in fractions of the crop.
            pose_N3: as `forward`.

        Returns:
            float32 unit vectors (N, 3), axes as `forward`; NaN where an input is.
        """
        left_NCHW, right_NCHW, angle_N = cut_eyes(crops_NCHW, landmarks_NK2)
        both = self(
            torch.cat([left_NCHW, right_NCHW.flip(3)]),
            torch.cat([right_NCHW, left_NCHW.flip(3)]),
            torch.cat([pose_N3, pose_N3 * pose_N3.new_tensor([1.0, -1.0, -1.0])]),
        ).float()
        straight_N3, mirrored_N3 = F.normalize(both, dim=1).chunk(2)
        vector_N3 = F.normalize(straight_N3 + mirrored_N3 * mirrored_N3.new_tensor([-1.0, 1.0, 1.0]), dim=1)
        return turn(vector_N3, angle_N)


def _eye_layers() -> nn.Sequential:
    return nn.Sequential(_active(3, 32), nn.Conv2d(32, 16, 3, 2, 1), _active(16, 64), nn.Conv2d(64, 32, 3, 2, 1))


def _active(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, 1, 1), nn.ReLU(), nn.BatchNorm2d(out_channels))


def centered(eyes_NCHW: Tensor) -> Tensor:
    """The input of the first layer, from pictures in [0, 1]: about zero mean and unit deviation."""
    return (eyes_NCHW - 0.5) / 0.25


def head_angles(pose_N3: Tensor) -> Tensor:
    """The input of the head from a pose.

    Args:
        pose_N3: pitch, roll, yaw in radians, in the signs of pipeline/schema.py.

    Returns:
        (N, 3): yaw and pitch in degrees with the teacher's signs, and 0 for the roll: the eyes are upright.
    """
    pitch, _, yaw = (-pose_N3.rad2deg()).unbind(1)
    return torch.stack([yaw, pitch, torch.zeros_like(yaw)], 1)


def turn(vector_N3: Tensor, angle_N: Tensor) -> Tensor:
    """Vectors turned in the picture's plane, from those of upright eyes to those of the face as it is.

    Args:
        vector_N3: x to the picture's right, y up, z from the camera.
        angle_N: of the face, rad clockwise in the picture.

    Returns:
        (N, 3), axes as `vector_N3`.
    """
    x, y, z = vector_N3.unbind(1)
    cos, sin = angle_N.cos(), angle_N.sin()
    # y points up, so clockwise in the picture is a negative turn
    return torch.stack([x * cos + y * sin, -x * sin + y * cos, z], dim=1)


def cut_eyes(crops_NCHW: Tensor, landmarks_NK2: Tensor, aspect: float = BOX_ASPECT) -> tuple[Tensor, Tensor, Tensor]:
    """Both eyes, upright and undistorted, and the angle of the face.

    Args:
        crops_NCHW: float32 RGB [0, 1], square.
        landmarks_NK2: 68 points in fractions of the crop.
        aspect: width over height of the part of the frame that the crop covers.

    Returns:
        The eye that is left in the picture, the other one, each (N, 3, 60, 60), and the eye line's angle (N,) in
        radians, clockwise in the picture. Pixels outside the crop are black.
    """
    unstretch = landmarks_NK2.new_tensor([aspect, 1.0])
    points_NK2 = landmarks_NK2 * unstretch
    line_N2 = points_NK2[:, 42:48].mean(1) - points_NK2[:, 36:42].mean(1)
    angle_N = torch.atan2(line_N2[:, 1], line_N2[:, 0])
    cos, sin = angle_N.cos(), angle_N.sin()
    turn_N22 = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    steps = (torch.arange(EYE, device=crops_NCHW.device) + 0.5) / EYE - 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    grid_P2 = torch.stack([x.flatten(), y.flatten()], -1)
    eyes = []
    for first, second in _CORNERS:
        a_N2, b_N2 = points_NK2[:, first], points_NK2[:, second]
        side_N = (a_N2 - b_N2).norm(dim=1) * _REACH
        at_NP2 = (a_N2 + b_N2)[:, None] / 2 + side_N[:, None, None] * (grid_P2 @ turn_N22.mT)
        grid_NHW2 = (at_NP2 / unstretch * 2 - 1).unflatten(1, (EYE, EYE))
        eyes.append(F.grid_sample(crops_NCHW, grid_NHW2, align_corners=False, padding_mode="zeros"))
    return eyes[0], eyes[1], angle_N
