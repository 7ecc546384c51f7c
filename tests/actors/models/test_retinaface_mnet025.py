import copy

import pytest
import torch
from torchvision.ops import box_iou

from actors.models.mobilefacenet import build_mobilefacenet
from actors.models.retinaface import frame_anchors, halve
from actors.ops.crops import EXPAND_112, crop_boxes, crop_faces, five_points, landmarks_to_frame


@pytest.fixture(scope="module")
def dlib_found(detector, read_image, dlib_faces):
    """Per picture: frame, detections, true landmarks; per true face the overlap and number of its best detection."""
    found = []
    with torch.inference_mode():
        for path, boxes_N4, landmarks_NK2 in dlib_faces:
            frames = read_image(path)
            detections = detector.detect(frames)
            overlap_N, best_N = box_iou(boxes_N4, detections.boxes_N4).max(1)
            found.append((frames, detections, landmarks_NK2, overlap_N, best_N))
    return found


def mean_error(points_NK2, truth_NK2, landmarks_NK2):
    """Mean distance per face, in distances of the outer eye corners."""
    return (points_NK2 - truth_NK2).norm(dim=2).mean(1) / (landmarks_NK2[:, 36] - landmarks_NK2[:, 45]).norm(dim=1)


def test_every_face_of_the_dlib_set_is_found(dlib_found):
    hits = [len(set(best_N[overlap_N >= 0.5].tolist())) for *_, overlap_N, best_N in dlib_found]
    assert sum(hits) == 43
    assert sum(len(detections) for _, detections, *_ in dlib_found) - sum(hits) <= 2


def test_the_five_points_lie_on_eyes_nose_and_mouth(dlib_found):
    errors = [
        mean_error(detections.points_N52[best_N], five_points(truth_NK2), truth_NK2)
        for _, detections, truth_NK2, _, best_N in dlib_found
    ]
    assert torch.cat(errors).mean() < 0.09


@torch.inference_mode()
def test_landmarks_of_found_faces_lie_where_they_should(dlib_found, weights):
    """The mean error is that of the weights, 7 to 8 % of the eye distance; a shifted or skewed crop would raise it."""
    net = build_mobilefacenet({"weights": weights / "mobilefacenet_model_best.pth.tar"})
    errors = []
    for frames, detections, truth_NK2, _, best_N in dlib_found:
        boxes_N4 = detections.boxes_N4[best_N]
        crops = crop_faces(frames, torch.zeros_like(best_N), boxes_N4, 112, EXPAND_112)
        landmarks_NK2 = landmarks_to_frame(net(crops), crop_boxes(boxes_N4, EXPAND_112))
        errors.append(mean_error(landmarks_NK2, truth_NK2, truth_NK2))
    assert torch.cat(errors).mean() < 0.08


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "faces"), [("single_face.jpg", 1), ("multi_face.jpg", 5), ("free-mountain-vector-01.jpg", 0)]
)
def test_number_of_faces(detector, read_image, data, name, faces):
    found = detector.detect(read_image(data / "images" / "pyfeat" / name))
    assert len(found) == faces
    assert found.scores_N.tolist() == sorted(found.scores_N.tolist(), reverse=True)
    assert found.points_N52.shape == (faces, 5, 2)


@torch.inference_mode()
def test_what_else_is_in_the_batch_does_not_matter(detector, read_image, dlib_faces):
    frame = read_image(dlib_faces[0][0])
    alone = detector.detect(frame)
    together = detector.detect(torch.cat([torch.zeros_like(frame), frame.flip(3), frame, frame]))
    assert together.frame_N.tolist() == sorted(together.frame_N.tolist())
    assert not (together.frame_N == 0).any()
    for place in (2, 3):
        mine = together.frame_N == place
        torch.testing.assert_close(together.boxes_N4[mine], alone.boxes_N4, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(together.points_N52[mine], alone.points_N52, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(together.scores_N[mine], alone.scores_N, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_boxes_are_decoded_in_float32_whatever_the_weights(detector, read_image, data):
    frame = read_image(data / "images" / "pyfeat" / "single_face.jpg")
    found, exact = copy.deepcopy(detector).to(torch.float64).detect(frame), detector.detect(frame)
    assert {found.boxes_N4.dtype, found.scores_N.dtype, found.points_N52.dtype} == {torch.float32}
    torch.testing.assert_close(found.boxes_N4, exact.boxes_N4, rtol=1e-4, atol=1e-2)


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(0, 3, 64, 64), (1, 3, 1, 1), (2, 3, 7, 33), (1, 3, 2, 2)])
def test_no_frame_and_tiny_frames(detector, shape):
    found = detector.detect(torch.zeros(shape, dtype=torch.uint8))
    assert len(found) == 0
    assert found.boxes_N4.shape == (0, 4)
    assert found.points_N52.shape == (0, 5, 2)


def test_a_frame_of_320_by_320_has_4200_anchors():
    anchors_A4 = frame_anchors(320, 320, torch.device("cpu"))
    assert anchors_A4.shape == (4200, 4)
    torch.testing.assert_close(anchors_A4[1] * 320, torch.tensor([4.0, 4.0, 32.0, 32.0]))
    torch.testing.assert_close(anchors_A4[-2] * 320, torch.tensor([304.0, 304.0, 256.0, 256.0]))


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 7), (1, 1)])
def test_halving_gives_the_mean_of_the_pixels_that_there_are(size):
    frames = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    expected = torch.nn.functional.avg_pool2d(frames.float(), 2, ceil_mode=True)
    torch.testing.assert_close(halve(frames), expected)
