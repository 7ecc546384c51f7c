"""Rotations, head poses and their projections; all functions are batched and run on any device.

A pose is six numbers: a rotation vector (axis times angle, rad) about the x, y and z axis, and a translation. The
camera looks along +z, x to the right, y down; its focal length is the sum of the picture's sides and its center
(width // 2, height // 2), all in pixels. Formulas: docs/reference/pyfeat.md section 2.2, after img2pose (Albiero et al.
2021).

Shapes: N poses, K points of the reference face.
"""

import math

import torch
from torch import Tensor

_NO_ANGLE = 1e-6  # rad; below it the rotation vector is half the skew part
_NEAR_HALF_TURN = math.pi - 0.05  # rad; above it the skew part is too small to hold the axis


def rotation_matrix(rvec_N3: Tensor) -> Tensor:
    """Rotation matrices of rotation vectors, by Rodrigues' formula.

    Args:
        rvec_N3: axis times angle, rad; float32 or float64.

    Returns:
        (N, 3, 3), same dtype; the identity for a zero vector.
    """
    angle_N1 = rvec_N3.norm(dim=1, keepdim=True)
    x, y, z = (rvec_N3 / torch.where(angle_N1 > 0, angle_N1, 1)).unbind(1)
    zero = torch.zeros_like(x)
    cross_N33 = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).unflatten(1, (3, 3))
    sin_N11, cos_N11 = angle_N1.sin()[:, :, None], angle_N1.cos()[:, :, None]
    identity_33 = torch.eye(3, dtype=rvec_N3.dtype, device=rvec_N3.device)
    return identity_33 + sin_N11 * cross_N33 + (1 - cos_N11) * (cross_N33 @ cross_N33)


def rotation_vector(matrix_N33: Tensor) -> Tensor:
    """Rotation vectors of rotation matrices: the inverse of `rotation_matrix`.

    Sheared matrices, as of `to_frame`, are treated like rotations: the angle from the trace, the axis from the skew
    part. Near half a turn, where the skew part vanishes, the axis is the largest column of (R + 1) / 2;
    that is exact at half a turn only, and off by up to 5 degrees from 0.05 rad before it on, as in the reference.

    Args:
        matrix_N33: float32 or float64.

    Returns:
        (N, 3) axis times angle, rad, of angle 0 to pi; same dtype.
    """
    diagonal_N3 = matrix_N33.diagonal(dim1=1, dim2=2)
    angle_N1 = ((diagonal_N3.sum(1, keepdim=True) - 1) / 2).clamp(-1, 1).acos()
    skew_N3 = torch.stack(
        [
            matrix_N33[:, 2, 1] - matrix_N33[:, 1, 2],
            matrix_N33[:, 0, 2] - matrix_N33[:, 2, 0],
            matrix_N33[:, 1, 0] - matrix_N33[:, 0, 1],
        ],
        dim=1,
    )
    sin_N1 = angle_N1.sin()
    usual_N3 = skew_N3 / (2 * torch.where(sin_N1.abs() > 1e-8, sin_N1, 1)) * angle_N1

    outer_N33 = (matrix_N33 + torch.eye(3, dtype=matrix_N33.dtype, device=matrix_N33.device)) / 2
    column_N = diagonal_N3.argmax(1)
    axis_N3 = outer_N33.gather(2, column_N[:, None, None].expand(-1, 3, 1)).squeeze(2)
    axis_N3 = axis_N3 / axis_N3.norm(dim=1, keepdim=True).clamp_min(1e-12)
    along_N1 = (axis_N3 * skew_N3).sum(1, keepdim=True)
    half_turn_N3 = torch.where(along_N1 < 0, -axis_N3, axis_N3) * angle_N1

    rvec_N3 = torch.where(angle_N1 > _NEAR_HALF_TURN, half_turn_N3, usual_N3)
    return torch.where(angle_N1 < _NO_ANGLE, skew_N3 / 2, rvec_N3)


def euler_angles(matrix_N33: Tensor) -> Tensor:
    """Angles about the fixed x, y and z axis, in this order (scipy's 'xyz'), of rotation matrices.

    Args:
        matrix_N33: float32 or float64.

    Returns:
        (N, 3) rad: x and z from -pi to pi, y from -pi/2 to pi/2. Where y is a quarter turn, x and z turn about the
        same axis, and only their sum or difference means something.
    """
    about_x = torch.atan2(matrix_N33[:, 2, 1], matrix_N33[:, 2, 2])
    about_y = torch.asin((-matrix_N33[:, 2, 0]).clamp(-1, 1))
    about_z = torch.atan2(matrix_N33[:, 1, 0], matrix_N33[:, 0, 0])
    return torch.stack([about_x, about_y, about_z], dim=1)


def to_frame(poses_N6: Tensor, boxes_N4: Tensor, height: int, width: int) -> Tensor:
    """Poses for the camera of the whole picture, from poses for a camera that looks at the middle of a box.

    Moving the camera's center from the picture's to the box's is the shear K^-1 K_box, whose only entries off the
    identity are those below; the reference inverts two matrices per box for it. The shear also acts on the rotation,
    which then is not a rotation; its rotation vector is that of `rotation_vector`, as in the reference.

    Args:
        poses_N6: rotation vector and translation relative to the box, z in units of the box.
        boxes_N4: left, top, right, bottom in pixels of the picture; width + height above 0.
        height: of the picture, pixels.
        width: of the picture, pixels.

    Returns:
        (N, 6) rotation vector and translation relative to the picture.
    """
    focal = width + height
    center_N2 = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    shear_x_N = (center_N2[:, 0] - width // 2) / focal
    shear_y_N = (center_N2[:, 1] - height // 2) / focal
    x_N, y_N, z_N = poses_N6[:, 3:].unbind(1)
    z_N = z_N * (focal / (boxes_N4[:, 2:] - boxes_N4[:, :2]).sum(1))
    moved_N3 = torch.stack([x_N + shear_x_N * z_N, y_N + shear_y_N * z_N, z_N], dim=1)

    turn_N33 = rotation_matrix(poses_N6[:, :3])
    sheared_N33 = torch.stack(
        [
            turn_N33[:, 0] + shear_x_N[:, None] * turn_N33[:, 2],
            turn_N33[:, 1] + shear_y_N[:, None] * turn_N33[:, 2],
            turn_N33[:, 2],
        ],
        dim=1,
    )
    return torch.cat([rotation_vector(sheared_N33), moved_N3], dim=1)


def project(points_K3: Tensor, poses_N6: Tensor, height: int, width: int) -> Tensor:
    """The points of a face in some pose, projected into a picture.

    Args:
        points_K3: points of the reference face.
        poses_N6: rotation vector and translation, relative to the picture.
        height: of the picture, pixels.
        width: of the picture, pixels.

    Returns:
        (N, K, 2) x and y in pixels; not finite for a point in the plane of the camera.
    """
    turned_NK3 = points_K3 @ rotation_matrix(poses_N6[:, :3]).transpose(1, 2) + poses_N6[:, None, 3:]
    center_2 = torch.stack([turned_NK3.new_full((), width // 2), turned_NK3.new_full((), height // 2)])
    depth_NK1 = turned_NK3[:, :, 2:]
    return ((width + height) * turned_NK3[:, :, :2] + center_2 * depth_NK1) / depth_NK1


def boxes_around(
    points_NK2: Tensor,
    about_z_N: Tensor,
    height: int,
    width: int,
    x_factor: float = 1.1,
    y_factor: float = 1.1,
    forehead: float = 0.3,
) -> Tensor:
    """Boxes around the projected points of faces, with room for the forehead, which the points leave out.

    Args:
        points_NK2: pixels of the picture.
        about_z_N: third number of the rotation vector, rad; decides on which side of the box the forehead is.
        height: of the picture, pixels.
        width: of the picture, pixels.
        x_factor: how much the box is wider than the points.
        y_factor: how much the box is higher than the points.
        forehead: room for it, in extents of the points.

    Returns:
        (N, 4) left, top, right, bottom: whole pixels (cut off toward 0, as the reference does), left and top at
        least 0, right and bottom at most the picture's. A face off the picture so gets a box without area.
    """
    low_N2, high_N2 = points_NK2.amin(1), points_NK2.amax(1)
    extent_N2 = high_N2 - low_N2
    center_N2 = 0.5 * (low_N2 + high_N2)
    size_N2 = torch.stack([extent_N2[:, 0] * x_factor, extent_N2[:, 1] * y_factor], dim=1).trunc()
    left, top = (center_N2 - size_N2 * 0.5).unbind(1)
    right, bottom = (center_N2 + size_N2 * 0.5).unbind(1)

    room_x, room_y = (forehead * extent_N2).unbind(1)
    down = about_z_N.abs() > 2.5
    to_right = ~down & (about_z_N > 1)
    to_left = ~down & (about_z_N < -1)
    up = ~(down | to_right | to_left)
    left = torch.where(to_left, left - room_x, left)
    top = torch.where(up, top - room_y, top)
    right = torch.where(to_right, right + room_x, right)
    bottom = torch.where(down, bottom + room_y, bottom)
    return torch.stack(
        [
            left.trunc().clamp_min(0),
            top.trunc().clamp_min(0),
            right.trunc().clamp_max(width),
            bottom.trunc().clamp_max(height),
        ],
        dim=1,
    )
