import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.ops.crops import align_faces, crop_boxes, crop_faces, five_points, landmarks_to_frame, sharpness

NAN = float("nan")
quick = settings(max_examples=40, deadline=None)
edges = st.floats(-300, 400, width=32)


def noise(count, height, width):
    shape = (count, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def zeros(count):
    return torch.zeros(count, dtype=torch.int64)


@quick
@given(st.integers(0, 255), edges, edges, st.floats(1, 200), st.floats(1, 200), st.integers(1, 40))
def test_crops_of_one_color_are_that_color_or_black(level, left, top, width, height, size):
    frames = torch.full((1, 3, 60, 80), level, dtype=torch.uint8)
    crops = crop_faces(frames, zeros(1), torch.tensor([[left, top, left + width, top + height]]), size, 1.2)
    assert crops.shape == (1, 3, size, size)
    assert (crops >= 0).all()
    assert (crops <= level / 255 + 1e-6).all()


def test_a_box_inside_the_frame_shows_the_positions_it_covers():
    ramp = torch.arange(200, dtype=torch.uint8).expand(1, 3, 100, 200).contiguous()
    crop = crop_faces(ramp, zeros(1), torch.tensor([[50.0, 10.0, 100.0, 90.0]]), 50, 1.0)[0, 0, 25] * 255
    exact = torch.arange(50) + 50.5 - 0.5  # left edge, half a pixel in, from edge to pixel index
    assert ((crop - exact) >= 0).all()
    assert ((crop - exact) < 1).all()  # the reference's drift to the right, below a pixel


def test_far_outside_the_frame_is_black():
    crops = crop_faces(noise(1, 20, 20), zeros(2), torch.tensor([[500.0, 0, 600, 50], [-1e30, 0, -9e29, 9]]), 8, 1.2)
    assert (crops == 0).all()


@quick
@given(st.lists(st.tuples(st.integers(0, 2), edges, edges, edges, edges), max_size=70), st.randoms())
def test_a_crop_does_not_depend_on_the_faces_around_it(rows, random):
    frames = noise(3, 30, 40)
    frame_N = torch.tensor([row[0] for row in rows], dtype=torch.int64)
    boxes_N4 = torch.tensor([row[1:] for row in rows], dtype=torch.float32).reshape(-1, 4)
    order = torch.tensor(random.sample(range(len(rows)), len(rows)), dtype=torch.int64)
    together = crop_faces(frames, frame_N, boxes_N4, 9, 1.1)
    assert torch.equal(crop_faces(frames, frame_N[order], boxes_N4[order], 9, 1.1), together[order])
    for n in range(min(3, len(rows))):
        alone = crop_faces(frames[frame_N[n]][None], zeros(1), boxes_N4[n : n + 1], 9, 1.1)[0]
        assert torch.equal(alone, together[n])


def test_more_faces_than_one_block_holds():
    boxes = torch.tensor([[2.0, 3.0, 20.0, 25.0]]).repeat(25, 1)
    crops = crop_faces(noise(1, 30, 30), zeros(25), boxes, 112, 1.2)
    assert torch.equal(crops, crops[:1].expand_as(crops))


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_a_box_that_is_not_finite_spoils_its_own_crop_only(bad):
    boxes = torch.tensor([[1.0, 1.0, 9.0, 9.0], [1.0, bad, 9.0, 9.0], [1.0, 1.0, 9.0, 9.0]])
    crops = crop_faces(noise(1, 12, 12), zeros(3), boxes, 6, 1.2)
    assert crops[1].isnan().all()
    assert crops[[0, 2]].isfinite().all()
    assert crop_boxes(boxes, 1.2)[0].tolist() == [0, 0, 10, 10]


@pytest.mark.parametrize("box", [[5.0, 5.0, 5.0, 5.0], [9.0, 9.0, 2.0, 3.0]], ids=["zero_size", "turned_around"])
@pytest.mark.parametrize("side", [1, 12])
def test_degenerate_boxes_and_frames_give_finite_crops(box, side):
    assert crop_faces(noise(1, side, side), zeros(1), torch.tensor([box]), 6, 1.2).isfinite().all()


def test_no_face():
    frames, nothing = noise(2, 8, 8), torch.zeros(0, 4)
    assert crop_faces(frames, zeros(0), nothing, 112, 1.2).shape == (0, 3, 112, 112)
    assert crop_faces(frames[:0], zeros(0), nothing, 112, 1.2).shape == (0, 3, 112, 112)
    assert align_faces(frames, zeros(0), torch.zeros(0, 5, 2)).shape == (0, 3, 112, 112)
    assert crop_boxes(nothing, 1.2).shape == (0, 4)
    assert landmarks_to_frame(torch.zeros(0, 136), zeros(0).new_zeros(0, 4)).shape == (0, 68, 2)


def test_crop_boxes_round_half_to_even():
    assert crop_boxes(torch.tensor([[0.5, 1.5, 2.5, 3.5]]), 1.0).tolist() == [[0, 2, 2, 4]]


@quick
@given(st.tuples(edges, edges, st.floats(1, 200), st.floats(1, 200)))
def test_the_corners_of_the_crop_are_the_corners_of_the_box(values):
    left, top, width, height = values
    box = crop_boxes(torch.tensor([[left, top, left + width, top + height]]), 1.2)
    corners = landmarks_to_frame(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), box)
    assert corners.flatten().tolist() == box.flatten().tolist()


def test_five_points_are_eye_centers_nose_and_mouth_corners():
    landmarks = torch.arange(68.0)[None, :, None].expand(1, 68, 2)
    assert five_points(landmarks)[0, :, 0].tolist() == [38.5, 44.5, 30.0, 48.0, 54.0]


def test_a_blurred_crop_is_less_sharp_and_a_plain_one_not_at_all():
    checks = (torch.arange(112)[:, None] // 8 + torch.arange(112) // 8) % 2
    sharp = checks.float().expand(1, 3, 112, 112)
    blurred = torch.nn.functional.avg_pool2d(sharp, 5, stride=1, padding=2)
    plain = torch.full((1, 3, 112, 112), 0.5)
    values = sharpness(torch.cat([sharp, blurred, plain]))
    assert values.shape == (3,)
    assert values[0] > 3 * values[1] > 0
    assert values[2] == 0
    assert sharpness(torch.empty(0, 3, 112, 112)).shape == (0,)
