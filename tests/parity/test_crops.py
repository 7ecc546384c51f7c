import numpy as np
import pytest
import torch

from actors.ops.crops import EXPAND_112, EXPAND_224, crop_boxes, crop_faces


@pytest.fixture(scope="module")
def reference(parity):
    return np.load(parity / "crop.npz")


@pytest.fixture(scope="module")
def frames(reference, device):
    return torch.from_numpy(reference["frame"]).to(device).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def boxes(reference, device):
    return torch.from_numpy(reference["boxes"]).to(device)  # two of them reach outside the frame


@pytest.mark.parametrize(("size", "expand", "every"), [(112, EXPAND_112, 1), (224, EXPAND_224, 4)])
def test_crops_are_those_of_the_reference(reference, frames, boxes, size, expand, every):
    frame = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    crops = crop_faces(frames, frame, boxes, size, expand)
    np.testing.assert_allclose(crops[:, :, ::every, ::every].cpu().numpy(), reference[f"crops{size}"], atol=1e-4)
    np.testing.assert_array_equal(crop_boxes(boxes, expand).cpu().numpy(), reference[f"boxes{size}"])


def test_face_rectangles_are_those_of_the_reference(reference, boxes):
    left, top, right, bottom = crop_boxes(boxes, EXPAND_112).unbind(1)
    ours = torch.stack([left, top, right - left, bottom - top], dim=1)
    np.testing.assert_array_equal(ours.cpu().numpy(), reference["rect"][:, :4])
