from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull
from skimage import feature
from skimage.measure import grid_points_in_poly

from actors.models.action_units import build_xgb
from actors.ops.hog import align_landmarks, face_mask, hog_blocks, hog_features, warp_affine


@pytest.fixture(scope="module")
def reference(parity):
    return np.load(parity / "hog.npz")


@pytest.fixture(scope="module")
def faces(reference, device):
    """Crops and landmarks in pixels."""
    crops = torch.from_numpy(reference["crops"]).to(device).float() / 255
    return crops, torch.from_numpy(reference["landmarks"]).to(device).unflatten(1, (68, 2)) * 112


@pytest.fixture(scope="module")
def described(faces):
    with torch.inference_mode():
        return hog_features(*faces)


@pytest.fixture(scope="module")
def determined(faces, described):
    """Entries that stay within 1e-5 when all pixels of the crop move by up to 1e-6, as by rounding; (N, 5408) bool.

    The others are not repeatable. In a flat area the gradient is rounding, and its direction is random. On the straight
    edge of a flat area the gradient lies on the border of two directions, and a pixel counts for either of them.
    """
    crops, landmarks = faces
    generator = torch.Generator().manual_seed(0)
    moves = torch.rand(4, *crops.shape, generator=generator).to(crops.device) * 2 - 1
    with torch.inference_mode():
        moved = torch.stack([hog_features(crops + 1e-6 * move, landmarks).features_N5408 for move in moves])
    return ((moved - described.features_N5408).abs().amax(0) <= 1e-5).cpu().numpy()


def block_energy(crops, landmarks):
    """Mean gradient over the 16 x 16 pixels of each block, (N, 169)."""
    matrix, points = align_landmarks(landmarks.double(), 112)
    aligned, on_crop = warp_affine(crops, matrix)
    mask = face_mask(points, 112)
    pictures = (aligned * (mask & on_crop)[:, None] + 128 * (mask & ~on_crop)[:, None]).cpu().numpy()
    along_y, along_x = np.zeros_like(pictures), np.zeros_like(pictures)
    along_y[..., 1:-1, :] = pictures[..., 2:, :] - pictures[..., :-2, :]
    along_x[..., 1:-1] = pictures[..., 2:] - pictures[..., :-2]
    gradient = np.hypot(along_y, along_x).max(1)
    cells = gradient.reshape(-1, 14, 8, 14, 8).mean((2, 4))
    return (cells[:, 1:, 1:] + cells[:, 1:, :-1] + cells[:, :-1, 1:] + cells[:, :-1, :-1]).reshape(-1, 169) / 4


def test_aligned_landmarks_are_those_of_the_reference(described, reference):
    ours = described.landmarks_N136.cpu().numpy()
    np.testing.assert_array_equal(ours, reference["aligned_landmarks"].reshape(-1, 136))


def test_features_that_rounding_does_not_move_are_those_of_the_reference(described, determined, reference):
    off = np.abs(described.features_N5408.cpu().numpy() - reference["features"]) > 1e-5
    assert (off & determined).mean() <= 0.001
    assert determined.mean() >= 0.7


def test_features_weighted_by_the_energy_of_their_block_are_those_of_the_reference(faces, described, reference):
    apart = np.abs(described.features_N5408.cpu().numpy() - reference["features"]).reshape(-1, 169, 32).mean(2)
    energy = block_energy(*faces)
    assert ((apart * energy).sum(1) / energy.sum(1)).max() <= 5e-4


@torch.inference_mode()
def test_action_units_that_follow_are_those_of_the_reference(described, parity, place):
    expected = np.load(parity / "au.npz")["xgb"]
    ours = place(build_xgb({"weights": parity / "xgb_au.skops"}))(described)
    np.testing.assert_allclose(ours.cpu().numpy(), expected, atol=1e-3)


def outline(points, size=112):
    """The mask as scipy and scikit-image define it."""
    hull = ConvexHull(points).vertices
    inside = grid_points_in_poly((size, size), points[hull][:, ::-1])
    inside[0 : min(points[0, 1], points[16, 1]), points[0, 0] : points[16, 0]] = True
    return inside


def assert_same_mask(points, device):
    ours = face_mask(torch.from_numpy(points).to(device).double(), 112).cpu().numpy()
    np.testing.assert_array_equal(ours, np.stack([outline(p) for p in points]))


@torch.inference_mode()
def test_the_mask_is_that_of_scipy_and_skimage_in_every_pixel(reference, device):
    rng = np.random.default_rng(0)
    crowded = [rng.integers(0, side, (68, 2)) for side in (3, 5, 9, 40) for _ in range(25)]
    wide = [rng.normal(55, spread, (68, 2)).astype(int) for spread in (10, 30, 90) for _ in range(25)]
    faces = reference["aligned_landmarks"]
    bent = [
        ((face - 56) @ (np.eye(2) + rng.normal(0, 0.25, (2, 2))) + 56 + rng.normal(0, 2, face.shape)).astype(int)
        for face in faces
        for _ in range(20)
    ]
    assert_same_mask(np.concatenate([faces, bent, crowded, wide]), device)


@torch.inference_mode()
def test_the_mask_of_annotated_faces_is_that_of_scipy_and_skimage(device, dlib_landmarks):
    assert_same_mask(dlib_landmarks, device)


@pytest.fixture
def dlib_landmarks(data):
    """Aligned landmarks of 43 annotated faces."""
    folder = data / "images" / "dlib_faces_68gt"
    trees = [ElementTree.parse(folder / f"{part}_with_face_landmarks.xml") for part in ("testing", "training")]
    faces = [
        [[float(p.get("x")), float(p.get("y"))] for p in box.iter("part")] for tree in trees for box in tree.iter("box")
    ]
    return align_landmarks(torch.tensor(faces, dtype=torch.float64), 112)[1].long().numpy()


@torch.inference_mode()
def test_hog_is_that_of_skimage(device):
    pictures = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    pictures[1, :, 30:60, 20:90] = 0.5  # flat, with corners
    for picture, ours in zip(pictures, hog_blocks(pictures.to(device)).cpu(), strict=True):
        theirs = feature.hog(
            picture.permute(1, 2, 0).double().numpy(), 8, (8, 8), (2, 2), block_norm="L2-Hys", channel_axis=-1
        )
        assert (np.abs(ours.numpy() - theirs) > 1e-5).mean() <= 0.001
