import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def net(standin_state, build, tmp_path_factory, place):
    return place(build("retinaface_r34", standin_state("retinaface_r34"), tmp_path_factory.mktemp("retinaface")))


@pytest.fixture(scope="module")
def reference(parity):
    return np.load(parity / "retinaface_r34.npz")


@pytest.fixture
def frames(reference, device):
    return torch.from_numpy(reference["frames"]).to(device)


@torch.inference_mode()
def test_raw_output_is_that_of_the_reference(net, frames, reference, assert_like_reference):
    deltas, probabilities, points = net(net.normalize(frames))
    assert_like_reference(deltas, reference["loc"])
    assert_like_reference(probabilities, reference["conf"])
    assert_like_reference(points, reference["landmarks"])


@torch.inference_mode()
def test_detections_are_those_of_the_reference(net, frames, reference):
    found = net.detect(frames)
    for frame, rows in enumerate(reference["detections"]):
        expected = rows[~np.isnan(rows[:, 0])]
        mine = found.frame_N == frame
        boxes = found.boxes_N4[mine].cpu().numpy()
        assert len(boxes) == len(expected)
        np.testing.assert_allclose(found.scores_N[mine].cpu().numpy(), expected[:, 4], rtol=1e-4)
        # stand-in weights saturate many scores at 1.0, and nothing orders equal scores: compare as sets
        distance = np.abs(expected[:, None, :4] - boxes[None]).max(2) / np.abs(expected[:, :4]).max(1)[:, None]
        assert sorted(distance.argmin(1)) == list(range(len(boxes)))
        assert distance.min(1).max() < 1e-3


@torch.inference_mode()
def test_a_frame_is_detected_alike_in_whatever_batch(net, frames):
    alone = net.detect(frames[1:])
    together = net.detect(torch.cat([frames, frames[:1]]))
    mine = together.frame_N == 1
    assert len(alone) == mine.sum()
    torch.testing.assert_close(together.boxes_N4[mine], alone.boxes_N4, rtol=1e-4, atol=1e-2)
