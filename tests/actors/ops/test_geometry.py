"""Rotations, poses and projections, against scipy and against what each must mean."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from actors.ops.geometry import boxes_around, euler_angles, project, rotation_matrix, rotation_vector, to_frame

quick = settings(max_examples=50, deadline=None)

HEIGHT, WIDTH = 300, 420


@st.composite
def rotation_vectors(draw, least=0.0, most=math.pi - 1e-4):
    """A few rotation vectors of any axis and of angles within bounds, float64."""
    made = []
    for _ in range(draw(st.integers(1, 4))):
        axis = np.array([draw(st.floats(-1, 1)) for _ in range(3)])
        assume(np.linalg.norm(axis) > 1e-3)
        made.append(axis / np.linalg.norm(axis) * draw(st.floats(least, most)))
    return torch.tensor(np.array(made))


@quick
@given(rotation_vectors(most=7.0))
def test_rotation_matrices_are_orthonormal_and_those_of_scipy(rvec_N3):
    matrix_N33 = rotation_matrix(rvec_N3)
    torch.testing.assert_close(matrix_N33 @ matrix_N33.mT, torch.eye(3, dtype=torch.float64).expand_as(matrix_N33))
    torch.testing.assert_close(torch.linalg.det(matrix_N33), torch.ones(len(rvec_N3), dtype=torch.float64))
    np.testing.assert_allclose(matrix_N33.numpy(), Rotation.from_rotvec(rvec_N3.numpy()).as_matrix(), atol=1e-12)


@quick
@given(rotation_vectors(most=math.pi - 0.051))
def test_the_vector_of_the_matrix_of_a_vector_is_that_vector(rvec_N3):
    torch.testing.assert_close(rotation_vector(rotation_matrix(rvec_N3)), rvec_N3, rtol=1e-6, atol=1e-6)


@quick
@given(rotation_vectors(most=math.pi - 0.051))
def test_single_precision_keeps_a_thousandth_of_a_radian(rvec_N3):
    back_N3 = rotation_vector(rotation_matrix(rvec_N3.float()))
    torch.testing.assert_close(back_N3, rvec_N3.float(), rtol=0, atol=1e-3)


@quick
@given(rotation_vectors(least=math.pi - 0.0499, most=math.pi - 1e-6))
def test_near_a_half_turn_the_rotation_is_off_by_at_most_five_degrees(rvec_N3):
    """A quirk of the reference, kept: it takes a column for the axis that is the axis of a half turn only."""
    matrix_N33 = rotation_matrix(rvec_N3)
    between = Rotation.from_matrix(matrix_N33.numpy()).inv() * Rotation.from_matrix(
        rotation_matrix(rotation_vector(matrix_N33)).numpy()
    )
    assert between.magnitude().max() < math.radians(5)


@pytest.mark.parametrize("axis", [[1, 0, 0], [0, -1, 0], [0, 0, 1], [1, -2, 3], [-1, -1, 0]])
def test_of_a_half_turn_either_sense_will_do(axis):
    rvec_N3 = torch.tensor([axis], dtype=torch.float64)
    rvec_N3 *= math.pi / rvec_N3.norm()
    back_N3 = rotation_vector(rotation_matrix(rvec_N3))
    torch.testing.assert_close(back_N3 * (back_N3 * rvec_N3).sum().sign(), rvec_N3, rtol=1e-6, atol=1e-6)


def test_no_turn_and_almost_none():
    rvec_N3 = torch.tensor([[0.0, 0.0, 0.0], [1e-8, -2e-8, 3e-8]], dtype=torch.float64)
    torch.testing.assert_close(rotation_vector(rotation_matrix(rvec_N3)), rvec_N3, rtol=1e-6, atol=1e-12)


@quick
@given(rotation_vectors())
def test_euler_angles_are_those_of_scipy(rvec_N3):
    # a quarter turn about y leaves x and z undecided
    assume((rotation_matrix(rvec_N3)[:, 2, 0].abs() < 1 - 1e-6).all())
    expected = Rotation.from_rotvec(rvec_N3.numpy()).as_euler("xyz")
    difference = euler_angles(rotation_matrix(rvec_N3)).numpy() - expected
    np.testing.assert_allclose((difference + np.pi) % (2 * np.pi) - np.pi, 0, atol=1e-6)


def test_a_quarter_turn_about_y_still_gives_angles_of_that_rotation():
    matrix_N33 = torch.tensor(
        Rotation.from_euler("xyz", [[0.3, math.pi / 2, 0.1], [0.3, -math.pi / 2, 0.1]]).as_matrix()
    )
    angles_N3 = euler_angles(matrix_N33)
    assert angles_N3.isfinite().all()
    torch.testing.assert_close(angles_N3[:, 1], torch.tensor([math.pi / 2, -math.pi / 2], dtype=torch.float64))


@pytest.fixture
def poses():
    """Poses relative to boxes, and the boxes, in a picture of HEIGHT and WIDTH."""
    generator = torch.Generator().manual_seed(3)
    rvec_N3 = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    moved_N3 = torch.randn(50, 3, generator=generator, dtype=torch.float64) * 0.1 + torch.tensor([0.1, 0.2, 3.5])
    corner_N2 = torch.rand(50, 2, generator=generator, dtype=torch.float64) * 200
    sides_N2 = torch.rand(50, 2, generator=generator, dtype=torch.float64) * 90 + 5
    return torch.cat([rvec_N3, moved_N3], 1), torch.cat([corner_N2, corner_N2 + sides_N2], 1)


def test_the_camera_moves_as_by_inverting_its_matrix(poses):
    """The formula of the reference, matrix by matrix."""
    camera = np.array([[WIDTH + HEIGHT, 0, WIDTH // 2], [0, WIDTH + HEIGHT, HEIGHT // 2], [0, 0, 1.0]])
    for pose, box, ours in zip(*(p.numpy() for p in poses), to_frame(*poses, HEIGHT, WIDTH).numpy(), strict=True):
        at_box = camera.copy()
        at_box[:2, 2] = (box[:2] + box[2:]) / 2
        moved = pose[3:] * [1, 1, (WIDTH + HEIGHT) / (box[2:] - box[:2]).sum()]
        np.testing.assert_allclose(ours[3:], np.linalg.inv(camera) @ at_box @ moved, rtol=1e-9)
        sheared = np.linalg.inv(camera) @ at_box @ Rotation.from_rotvec(pose[:3]).as_matrix()
        angle = np.arccos(np.clip((np.trace(sheared) - 1) / 2, -1, 1))
        if angle < np.pi - 0.05:
            skew = [sheared[2, 1] - sheared[1, 2], sheared[0, 2] - sheared[2, 0], sheared[1, 0] - sheared[0, 1]]
            np.testing.assert_allclose(ours[:3], np.array(skew) / (2 * np.sin(angle)) * angle, rtol=1e-6, atol=1e-9)


def test_a_box_in_the_middle_of_the_picture_turns_nothing(poses):
    middle_N4 = torch.tensor([[160.0, 100.0, 260.0, 200.0]], dtype=torch.float64).expand(50, 4)
    turned_N3 = to_frame(poses[0], middle_N4, HEIGHT, WIDTH)[:, :3]
    torch.testing.assert_close(rotation_matrix(turned_N3), rotation_matrix(poses[0][:, :3]), rtol=1e-6, atol=1e-6)


def test_a_point_lies_where_a_pinhole_camera_sees_it():
    points_K3 = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    straight = [0.0, 0.0, 0.0, 0.0, 0.0, 10.0]
    quarter_about_z = [0.0, 0.0, math.pi / 2, 1.0, 2.0, 10.0]
    seen_NK2 = project(points_K3, torch.tensor([straight, quarter_about_z]), HEIGHT, WIDTH)
    expected = [[[210, 150], [282, 150], [210, 222]], [[282, 294], [282, 366], [210, 294]]]  # focal length 720
    torch.testing.assert_close(seen_NK2, torch.tensor(expected).float(), rtol=1e-5, atol=1e-3)


@quick
@given(rotation_vectors(most=1.0))
def test_projection_is_that_of_rotating_moving_and_dividing(rvec_N3):
    points_K3 = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    poses_N6 = torch.cat([rvec_N3, torch.tensor([0.5, -0.25, 9.0]).expand(len(rvec_N3), 3)], 1)
    for pose, seen_K2 in zip(poses_N6.numpy(), project(points_K3, poses_N6, HEIGHT, WIDTH).numpy(), strict=True):
        x, y, z = (Rotation.from_rotvec(pose[:3]).apply(points_K3.numpy()) + pose[3:]).T
        np.testing.assert_allclose(seen_K2, np.stack([720 * x / z + 210, 720 * y / z + 150], 1), rtol=1e-9)


@quick
@given(st.integers(0, 49))
def test_a_pose_alone_gives_what_it_gives_among_others(poses_of_fifty, n):
    poses_N6, boxes_N4, points_K3, (moved_N6, seen_NK2, around_N4, angles_N3) = poses_of_fifty
    alone = _all_of(poses_N6[n : n + 1], boxes_N4[n : n + 1], points_K3)
    for one, many in zip(alone, (moved_N6, seen_NK2, around_N4, angles_N3), strict=True):
        torch.testing.assert_close(one[0], many[n], rtol=1e-12, atol=1e-12)


def _all_of(poses_N6, boxes_N4, points_K3):
    moved_N6 = to_frame(poses_N6, boxes_N4, HEIGHT, WIDTH)
    seen_NK2 = project(points_K3, moved_N6, HEIGHT, WIDTH)
    return (
        moved_N6,
        seen_NK2,
        boxes_around(seen_NK2, moved_N6[:, 2], HEIGHT, WIDTH),
        euler_angles(rotation_matrix(moved_N6[:, :3])),
    )


@pytest.fixture(scope="module")
def poses_of_fifty():
    generator = torch.Generator().manual_seed(5)
    poses_N6 = torch.randn(50, 6, generator=generator, dtype=torch.float64) + torch.tensor([0, 0, 0, 0, 0, 8.0])
    boxes_N4 = torch.tensor([10.0, 20.0, 60.0, 90.0], dtype=torch.float64) + torch.arange(50)[:, None]
    points_K3 = torch.randn(68, 3, generator=generator, dtype=torch.float64) / 2
    return poses_N6, boxes_N4, points_K3, _all_of(poses_N6, boxes_N4, points_K3)


def test_nothing_gives_nothing():
    moved_N6, seen_NK2, around_N4, angles_N3 = _all_of(torch.zeros(0, 6), torch.zeros(0, 4), torch.zeros(68, 3))
    assert (moved_N6.shape, seen_NK2.shape) == ((0, 6), (0, 68, 2))
    assert (around_N4.shape, angles_N3.shape) == ((0, 4), (0, 3))


@pytest.mark.parametrize(
    ("about_z", "expected"),
    [
        (0.0, (95, 86, 205, 161)),  # forehead up: 0.3 of 46 above 94.5 + 5
        (1.5, (95, 97, 235, 147)),
        (-1.5, (65, 97, 205, 147)),
        (3.0, (95, 97, 205, 161)),
        (-3.0, (95, 97, 205, 161)),
    ],
    ids=["up", "right", "left", "down", "down_the_other_way"],
)
def test_boxes_leave_room_for_the_forehead(about_z, expected):
    points_NK2 = torch.tensor([[[100.0, 100.0], [200.0, 145.9]]])
    left, top, right, bottom = boxes_around(points_NK2, torch.tensor([about_z]), HEIGHT, WIDTH)[0].tolist()
    assert (left, top, right, bottom) == _as_the_reference(points_NK2[0].numpy(), about_z)
    assert abs(np.array([left, right]) - np.array(expected)[[0, 2]]).max() <= 1


def test_boxes_end_at_the_picture():
    points_NK2 = torch.tensor([[[-50.0, -60.0], [WIDTH + 50.0, HEIGHT + 60.0]]])
    assert boxes_around(points_NK2, torch.zeros(1), HEIGHT, WIDTH).tolist() == [[0, 0, WIDTH, HEIGHT]]


def _as_the_reference(points, about_z):
    """The reference's steps for one face."""
    (x1, y1), (x2, y2) = points.min(0), points.max(0)
    wide, high = int((x2 - x1) * 1.1), int((y2 - y1) * 1.1)
    box = [(x1 + x2) / 2 - wide / 2, (y1 + y2) / 2 - high / 2, (x1 + x2) / 2 + wide / 2, (y1 + y2) / 2 + high / 2]
    if abs(about_z) > 2.5:
        box[3] += 0.3 * (y2 - y1)
    elif about_z > 1:
        box[2] += 0.3 * (x2 - x1)
    elif about_z < -1:
        box[0] -= 0.3 * (x2 - x1)
    else:
        box[1] -= 0.3 * (y2 - y1)
    return max(0, int(box[0])), max(0, int(box[1])), min(WIDTH, int(box[2])), min(HEIGHT, int(box[3]))
