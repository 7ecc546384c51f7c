"""img2pose with weights made here: any frames in any batch, and its poses on their way through the annotator."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from actors.annotator import Annotator
from actors.errors import BundleError
from actors.models.img2pose import Img2Pose, build_img2pose, build_pose_from_detector, read_config
from actors.ops.color import unpack_planes, yuv420_to_rgb
from actors.runtime.chunk_rows import FACE_WIDTH
from actors.runtime.settings import AnnotatorSettings
from actors.weights.bundles import resolve_bundle
from pipeline.schema import FLOW

BUNDLE = """
models:
  face: {model: img2pose, weights: {weights: weights.safetensors, config: config.json}}
  pose: img2pose
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights, a configuration for small pictures, and a bundle of both slots."""
    folder = tmp_path_factory.mktemp("img2pose")
    rng = np.random.default_rng(1)
    config = {
        "min_size": 96,
        "max_size": 256,
        "pose_mean": [-0.0238, 0.0275, -0.0144, 0.0664, 0.2380, 3.4813],
        "pose_stddev": [0.2353, 0.5395, 0.1767, 0.1320, 0.1358, 0.3663],
        "threed_points": (rng.uniform(-1, 1, (68, 3)) * [0.75, 0.7, 0.4]).tolist(),
        "rpn_pre_nms_top_n_test": 300,
        "rpn_post_nms_top_n_test": 40,
        "bbox_x_factor": 1.1,
        "bbox_y_factor": 1.1,
        "expand_forehead": 0.3,
        "an_entry_of_a_later_release": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    net = Img2Pose(read_config(folder / "config.json"), score_threshold=0.5)
    state = net.state_dict()
    # scores that differ, the lowest for an empty frame; poses that differ
    state["roi_heads.class_predictor.cls_score.weight"] *= -40
    state["roi_heads.class_predictor.cls_score.bias"] -= torch.tensor([0.0, 7.0])
    state["roi_heads.box_predictor.dof_pred.3.weight"] *= 15
    save_file(state, folder / "weights.safetensors")
    (folder / "bundle.yaml").write_text(BUNDLE)
    return folder


@pytest.fixture(scope="module")
def net(folder):
    return build_img2pose({"weights": folder / "weights.safetensors", "config": folder / "config.json"})


def pictures(count, height, width, seed=0):
    """Coarse random pictures, uint8 (count, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 8, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").to(torch.uint8)


def of_frame(found, number):
    mine = found.frame_N == number
    return found.boxes_N4[mine], found.scores_N[mine], found.poses_N6[mine]


@torch.inference_mode()
def test_each_frame_of_a_batch_is_detected_as_alone(net):
    frames = pictures(6, 100, 140)
    together = net.detect(frames)
    assert together.frame_N.tolist() == sorted(together.frame_N.tolist())
    assert together.frame_N.unique().tolist() == list(range(6))
    for number in range(6):
        alone, mine = net.detect(frames[number : number + 1]), of_frame(together, number)
        assert mine[1].tolist() == sorted(mine[1].tolist(), reverse=True)
        for one, many in zip(of_frame(alone, 0), mine, strict=True):
            torch.testing.assert_close(many, one, rtol=1e-4, atol=1e-3)


@torch.inference_mode()
def test_an_empty_frame_gives_no_face_and_takes_none_from_its_neighbors(net):
    frames = pictures(3, 100, 140)
    before = net.detect(frames)
    frames[1] = 127
    faces = net.detect(frames)
    assert faces.frame_N.unique().tolist() == [0, 2]
    for number in (0, 2):
        torch.testing.assert_close(of_frame(faces, number)[0], of_frame(before, number)[0], rtol=1e-4, atol=1e-3)
    nothing = net.detect(frames[1:2])
    assert (nothing.boxes_N4.shape, nothing.scores_N.shape, nothing.poses_N6.shape) == ((0, 4), (0,), (0, 6))


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 700), (700, 1), (31, 33)], ids=str)
def test_frames_of_any_size_are_taken(net, size):
    found = net.detect(pictures(2, *size))
    assert found.boxes_N4.isfinite().all()
    assert found.poses_N6.isfinite().all()
    assert (found.boxes_N4[:, :2] >= 0).all()
    assert (found.boxes_N4[:, 2] <= size[1] * (1 + 1e-6)).all()
    assert (found.boxes_N4[:, 3] <= size[0] * (1 + 1e-6)).all()


@torch.inference_mode()
def test_no_frames_give_no_faces(net):
    found = net.detect(torch.zeros(0, 3, 48, 64, dtype=torch.uint8))
    assert (len(found), found.boxes_N4.shape, found.poses_N6.shape) == (0, (0, 4), (0, 6))


@pytest.mark.slow  # half precision is emulated on most CPUs
@torch.inference_mode()
def test_in_half_precision_only_the_network_is_coarse(folder):
    """The same faces, a little off; were the reference points or the camera rounded too, boxes would be far off."""
    files = {"weights": folder / "weights.safetensors", "config": folder / "config.json"}
    frames = pictures(2, 100, 140)
    full, coarse = build_img2pose(files).candidates(frames), build_img2pose(files).to(torch.bfloat16).candidates(frames)
    assert {t.dtype for t in (coarse.boxes_M4, coarse.scores_M, coarse.poses_M6)} == {torch.float32}
    best = [found.boxes_M4[found.frame_M == 0][0] for found in (full, coarse)]
    assert (best[0] - best[1]).abs().max() < 10


@torch.inference_mode()
def test_the_pose_slot_passes_the_detectors_poses_on(net):
    poses_N6 = net.detect(pictures(1, 100, 140)).poses_N6
    assert build_pose_from_detector({})(poses_N6) is poses_N6


def flow_row(height, width, count, slots, seed, **stored):
    """A chunk as it travels, of coarse random planes, with what an earlier run stored."""
    rng = np.random.default_rng(seed)
    coarse = [rng.integers(0, 256, (count, 4, 5)) for _ in range(3)]
    sides = [(height, width), *[((height + 1) // 2, (width + 1) // 2)] * 2]
    planes = [
        np.kron(p, np.ones((1, -(-h // 4), -(-w // 5))))[:, :h, :w].reshape(count, -1)
        for p, (h, w) in zip(coarse, sides, strict=True)
    ]
    row = dict.fromkeys(FLOW.names) | {
        "clip_id": str(seed),
        "shard": "0",
        "first": 0,
        "frames": list(range(count)),
        "width": width,
        "height": height,
        "matrix": "bt601",
        "full_range": False,
        "planes": np.concatenate(planes, axis=1).astype(np.uint8).tobytes(),
        "last": True,
        "slots": slots,
    }
    return row | stored


def test_poses_come_out_of_the_annotator_and_again_from_stored_boxes(net, folder):
    bundle = resolve_bundle(str(folder / "bundle.yaml"))
    assert [model.slot for model in bundle.models] == ["face", "pose"]
    assert bundle.slot("pose").needs == ("face",)
    annotator = Annotator(bundle.models, AnnotatorSettings("cpu", batch_faces=7))
    rows = [flow_row(100, 140, 3, ["face", "pose"], seed=1), flow_row(96, 97, 2, ["face", "pose"], seed=2)]
    first = annotator(pa.Table.from_pylist(rows, schema=FLOW)).to_pylist()
    for row, chunk in zip(rows, first, strict=True):
        planes = torch.frombuffer(bytearray(row["planes"]), dtype=torch.uint8)
        unpacked = unpack_planes(planes, len(row["frames"]), row["height"], row["width"])
        with torch.inference_mode():
            expected = net.detect(yuv420_to_rgb(*unpacked, "bt601", False))
        assert len(expected) > 7
        assert chunk["face_index"] == expected.frame_N.tolist()
        faces_NW = np.reshape(chunk["face"], (-1, FACE_WIDTH))
        np.testing.assert_allclose(faces_NW[:, :4], expected.boxes_N4, rtol=1e-4, atol=1e-3)
        assert np.isnan(faces_NW[:, 5:15]).all()
        assert (faces_NW[:, 15] > 0).all()
        np.testing.assert_allclose(np.reshape(chunk["pose"], (-1, 6)), expected.poses_N6, rtol=1e-4, atol=1e-3)

    stored = [
        flow_row(100, 140, 3, ["pose"], seed=1, face=first[0]["face"], face_index=first[0]["face_index"]),
        flow_row(96, 97, 2, ["pose"], seed=2, face=first[1]["face"], face_index=first[1]["face_index"]),
    ]
    second = annotator(pa.Table.from_pylist(stored, schema=FLOW)).to_pylist()
    for chunk, again in zip(first, second, strict=True):
        np.testing.assert_allclose(again["pose"], chunk["pose"], rtol=1e-4, atol=1e-3)
        assert again["face_index"] == chunk["face_index"]


def test_poses_are_refused_where_the_face_model_gives_none(tmp_path):
    (tmp_path / "bundle.yaml").write_text("models: {face: tiny, pose: img2pose}")
    with pytest.raises(BundleError, match="img2pose"):
        resolve_bundle(str(tmp_path / "bundle.yaml"))
