import numpy as np
import pytest
import torch

from actors.ops.hog import face_mask, hog_blocks, hog_features


@pytest.fixture(scope="module")
def reference(parity):
    return np.load(parity / "hog.npz")


def described(reference, device):
    crops = torch.from_numpy(reference["crops"]).to(device).float() / 255
    return hog_features(crops, torch.from_numpy(reference["landmarks"]).to(device).unflatten(1, (68, 2)) * 112)


@torch.inference_mode()
def test_features_and_aligned_landmarks_are_those_of_the_reference(reference, device):
    faces = described(reference, device)
    np.testing.assert_array_equal(faces.landmarks_N136.cpu().numpy(), reference["aligned_landmarks"].reshape(-1, 136))
    off = np.abs(faces.features_N5408.cpu().numpy() - reference["features"]) > 1e-5
    assert off.mean() <= 0.001  # a pixel on the edge of two directions may fall on either side


def outline(points, size=112):
    """The mask as scipy and scikit-image define it."""
    hull = pytest.importorskip("scipy.spatial").ConvexHull(points).vertices
    inside = pytest.importorskip("skimage.measure").grid_points_in_poly((size, size), points[hull][:, ::-1])
    inside[0 : min(points[0, 1], points[16, 1]), points[0, 0] : points[16, 0]] = True
    return inside


@torch.inference_mode()
def test_the_mask_is_that_of_scipy_and_skimage_in_every_pixel(reference, device, dlib_landmarks):
    rng = np.random.default_rng(0)
    crowded = [rng.integers(0, side, (68, 2)) for side in (3, 5, 9, 40) for _ in range(25)]
    wide = [rng.normal(55, spread, (68, 2)).astype(int) for spread in (10, 30, 90) for _ in range(25)]
    points = np.concatenate([reference["aligned_landmarks"], dlib_landmarks, crowded, wide])
    ours = face_mask(torch.from_numpy(points).to(device).double(), 112).cpu().numpy()
    np.testing.assert_array_equal(ours, np.stack([outline(p) for p in points]))


@pytest.fixture
def dlib_landmarks(data):
    """Aligned landmarks of 43 annotated faces."""
    from xml.etree import ElementTree

    from actors.ops.hog import align_landmarks

    folder = data / "images" / "dlib_faces_68gt"
    trees = [ElementTree.parse(folder / f"{part}_with_face_landmarks.xml") for part in ("testing", "training")]
    faces = [
        [[float(p.get("x")), float(p.get("y"))] for p in box.iter("part")] for tree in trees for box in tree.iter("box")
    ]
    return align_landmarks(torch.tensor(faces, dtype=torch.float64), 112)[1].long().numpy()


@torch.inference_mode()
def test_hog_is_that_of_skimage(device):
    describe = pytest.importorskip("skimage.feature").hog
    pictures = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    pictures[1, :, 30:60, 20:90] = 0.5  # flat, with corners
    for picture, ours in zip(pictures, hog_blocks(pictures.to(device)).cpu(), strict=True):
        theirs = describe(
            picture.permute(1, 2, 0).double().numpy(), 8, (8, 8), (2, 2), block_norm="L2-Hys", channel_axis=-1
        )
        assert (np.abs(ours.numpy() - theirs) > 1e-5).mean() <= 0.001
