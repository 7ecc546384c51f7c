"""The whole detector on a video: all 695 columns of the reference's table, from frames and given boxes on.

The boxes come with the answer, since the weights of the reference's detector are not at hand. Every network has its
stand-in weights. Those of the landmarks end in a norm that is set so that they lie on the face; where the answers lack
that norm (`detect_mobilefacenet.npz`), the published weights were used. The path is the usual one: a bundle over a
mirror of weights, decoding, the actor, and the export's layout.
"""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from actors import FaceAnalyzer
from actors.weights.catalog import BUNDLES, MODELS
from pipeline.export.fex import COLUMNS_OF_SLOT, FEX, FexVideo, embeddings_of, fex_rows
from pipeline.export.pyfeat_identities import cluster_identities

GIVEN = """
import json

import torch

from actors.models import Detections


class GivenBoxes:
    # the faces of frame 0, step, 2 * step, ..., which come in this order, in batches of any size

    def __init__(self, file):
        content = json.loads(file.read_text())
        self.boxes, self.step, self.seen = content["boxes"], content["step"], 0

    def detect(self, frames_BCHW):
        numbers = [str((self.seen + i) * self.step) for i in range(len(frames_BCHW))]
        self.seen += len(frames_BCHW)
        of_frame = [torch.tensor(self.boxes.get(number, [])).reshape(-1, 5) for number in numbers]
        faces = torch.cat(of_frame).to(frames_BCHW.device)
        frame_N = torch.repeat_interleave(torch.tensor([len(boxes) for boxes in of_frame])).to(faces.device)
        return Detections(frame_N, faces[:, :4], faces[:, 4], None)
"""

COMPUTED = {slot: model for slot, model in BUNDLES["pyfeat"].items() if slot != "face"}


@pytest.fixture(scope="module")
def asked(parity):
    return json.loads((parity / "detect_boxes.json").read_text())


@pytest.fixture(scope="module")
def write_landmark_weights(parity, standin_state, request):
    """Writes the weights of the landmarks that the reference's answer was made with."""
    set_apart = parity / "detect_mobilefacenet.npz"
    if not set_apart.exists():
        weights = request.getfixturevalue("weights")
        return lambda to: shutil.copy(weights / "mobilefacenet_model_best.pth.tar", to)
    with np.load(set_apart) as norm:
        state = standin_state("mobilefacenet") | {name: torch.from_numpy(norm[name]) for name in norm.files}
    return lambda to: torch.save({"state_dict": state}, to)


@pytest.fixture(scope="module")
def mirror(parity, write_landmark_weights, standin_state, tmp_path_factory):
    """The weights that the reference's answer was made with, laid out as on the hub."""
    folder = tmp_path_factory.mktemp("mirror")

    def without_counters(state):
        return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}

    make = {
        ("mobilefacenet", "weights"): write_landmark_weights,
        ("pose_mlp", "weights"): lambda to: save_file(standin_state("pose_mlp"), to),
        ("pose_mlp", "config"): lambda to: shutil.copy(parity / "pose_mlp_v2.json", to),
        ("arcface_r50", "weights"): lambda to: save_file(without_counters(standin_state("arcface_r50")), to),
        ("resmasknet", "weights"): lambda to: torch.save({"net": standin_state("resmasknet")}, to),
        ("l2cs", "weights"): lambda to: save_file(standin_state("l2cs"), to),
        ("xgb", "weights"): lambda to: shutil.copy(parity / "xgb_au.skops", to),
    }
    for slot, model in COMPUTED.items():
        for role, file in MODELS[slot][model].files.items():
            path = folder / file.repo / file.names[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            make[model, role](path)
    return folder


@pytest.fixture(scope="module")
def path(asked, parity, request):
    """The video: among the answers, or among the data."""
    beside = parity / "videos" / asked["video"]
    return beside if beside.exists() else request.getfixturevalue("data") / "videos" / asked["video"]


@pytest.fixture(scope="module")
def ours(asked, path, device, parity, mirror, tmp_path_factory):
    """Our table in the reference's layout."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "given_boxes.py").write_text(GIVEN)
    face = {"factory": "given_boxes:GivenBoxes", "weights": str(parity / "detect_boxes.json"), "input": "frames"}
    (folder / "given.yaml").write_text(yaml.safe_dump({"models": {"face": face, **COMPUTED}}))
    analyzer = FaceAnalyzer(str(folder / "given.yaml"), mirror=str(mirror), device=device.type, precision="float32")
    faces = analyzer.detect(path, every=asked["step"])
    labels = list(cluster_identities(embeddings_of(faces), 0.8, "gallery"))
    video = _video(path)
    frames = sorted(int(frame) for frame in asked["boxes"])
    table = fex_rows(video, frames, faces, labels)
    return table.to_pandas()


def _video(path):
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return FexVideo(path.name, stream.height, stream.width, float(stream.average_rate))


@pytest.fixture(scope="module")
def reference(parity):
    return pd.read_parquet(parity / "detect.parquet")


def test_columns_order_and_dtypes_are_those_of_the_reference(ours, reference):
    assert list(ours.columns) == list(reference.columns) == FEX.names
    assert len(FEX.names) == 695
    numbers = reference.select_dtypes("number").columns
    pd.testing.assert_series_equal(ours[numbers].dtypes, reference[numbers].dtypes)


@pytest.mark.parametrize("column", ["frame", "input", "approx_time", "FrameHeight", "FrameWidth"])
def test_rows_stand_for_the_same_frames(ours, reference, column):
    assert ours[column].tolist() == reference[column].tolist()


def test_face_rectangles_and_scores_are_those_of_the_reference(ours, reference):
    names = list(COLUMNS_OF_SLOT["face"])
    np.testing.assert_array_equal(ours[names].to_numpy(), reference[names].to_numpy(np.float32))


@pytest.mark.parametrize("slot", [slot for slot in COLUMNS_OF_SLOT if slot != "face"])
def test_numbers_of_each_model_are_those_of_the_reference(ours, reference, slot):
    names = list(COLUMNS_OF_SLOT[slot])
    expected = reference[names].to_numpy(np.float32)
    np.testing.assert_array_equal(np.isnan(ours[names].to_numpy()), np.isnan(expected))
    largest = np.nanmax(np.abs(expected))
    atol = 1e-3 if slot == "action_units" else 1e-4 * largest
    np.testing.assert_allclose(ours[names].to_numpy(), expected, rtol=1e-3, atol=atol)


def test_identities_are_those_of_the_reference(ours, reference):
    assert ours["Identity"].fillna("").tolist() == reference["Identity"].fillna("").tolist()
