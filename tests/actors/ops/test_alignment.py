import csv
import importlib.util
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.ops.crops import align_faces, similarity
from pipeline.geometry import ARCFACE_POINTS

TEMPLATE_15_2 = torch.tensor([ARCFACE_POINTS])
# few enough, and small enough, to stay quick: 6 pictures of 3 people
PICTURES = [f"img{n}.jpg" for n in (5, 10, 11, 12, 16, 17)]


def turned(points_NK2, angle, scale, x, y):
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    return points_NK2 @ torch.tensor([[a, b], [-b, a]]) + torch.tensor([x, y])


@settings(max_examples=60, deadline=None)
@given(st.floats(-3.1, 3.1), st.floats(0.1, 20), st.floats(-2000, 2000), st.floats(-2000, 2000))
def test_a_known_similarity_is_recovered(angle, scale, x, y):
    a, b, tx, ty = similarity(TEMPLATE_15_2, turned(TEMPLATE_15_2, angle, scale, x, y))[0].tolist()
    assert a == pytest.approx(scale * math.cos(angle), abs=1e-3 * scale)
    assert b == pytest.approx(scale * math.sin(angle), abs=1e-3 * scale)
    assert (tx, ty) == pytest.approx((x, y), abs=0.1 * max(1, scale))


def test_a_mirrored_face_is_not_mirrored_back():
    mirrored = TEMPLATE_15_2 * torch.tensor([-1.0, 1.0])
    a, b, *_ = similarity(mirrored, TEMPLATE_15_2)[0].tolist()
    assert math.hypot(a, b) < 0.5  # a turn and a scale can only shrink what needs a reflection


def test_points_that_lie_on_the_template_leave_the_picture_as_it_is():
    frames = torch.randint(0, 256, (1, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    crops = align_faces(frames, torch.zeros(1, dtype=torch.int64), TEMPLATE_15_2)
    torch.testing.assert_close(crops[:, :, 1:-1, 1:-1], frames[:, :, 1:-1, 1:-1] / 255, atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [112, 224])
def test_a_mark_on_each_point_lands_on_the_template(size):
    points = turned(TEMPLATE_15_2, 0.4, 2.5, 150.0, 60.0)
    for k in range(5):
        frames = torch.zeros(1, 3, 500, 500, dtype=torch.uint8)
        x, y = points[0, k].round().int().tolist()
        frames[:, :, y - 4 : y + 5, x - 4 : x + 5] = 255
        crop = align_faces(frames, torch.zeros(1, dtype=torch.int64), points, size)[0, 0]
        rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        center = torch.stack([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum()
        torch.testing.assert_close(center, TEMPLATE_15_2[0, k] * (size / 112), atol=0.6 * size / 112, rtol=0)


def test_points_without_a_similarity_spoil_their_own_crop_only():
    points = TEMPLATE_15_2.repeat(4, 1, 1)
    points[1] = 7.0  # all in one place
    points[2, 3, 0] = float("nan")
    crops = align_faces(torch.full((1, 3, 9, 9), 255, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), points)
    assert crops[[1, 2]].isnan().all()
    assert torch.equal(crops[0], crops[3])
    assert crops[0].isfinite().all()


@torch.inference_mode()
def test_aligned_faces_are_told_apart_by_a_published_embedding(detector, read_image, data, weights):
    spec = importlib.util.spec_from_file_location("graphnet", weights / "graphnet.py")
    graphnet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(graphnet)
    net = graphnet.GraphNet.load(str(weights / "mbf512_espdl"))
    folder = data / "images" / "deepface_pairs"
    embeddings = {}
    for name in PICTURES:
        frames = read_image(folder / name)
        best = detector.detect(frames).points_N52[:1]
        crops = align_faces(frames, torch.zeros(1, dtype=torch.int64), best)
        embeddings[name] = F.normalize(net(crops * 2 - 1))[0]
    cosines = {"Yes": [], "No": []}
    with (folder / "master.csv").open() as file:
        for row in csv.DictReader(file):
            if row["file_x"] in embeddings and row["file_y"] in embeddings:
                cosine = embeddings[row["file_x"]] @ embeddings[row["file_y"]]
                cosines[row["Decision"]].append(cosine.item())
    assert len(cosines["Yes"]) == 4
    assert min(cosines["Yes"]) > max(cosines["No"])  # so the area under the ROC curve is 1
