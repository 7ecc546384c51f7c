"""Batches that do not fit the device are halved until they do, and what fits is remembered."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from actors.annotator import Annotator
from actors.runtime.chunk_rows import FACE_WIDTH
from actors.runtime.settings import AnnotatorSettings
from actors.weights.bundles import resolve_bundle
from pipeline import schema

MODEL = '''
import torch
from actors.models import Detections

class Small:
    """Fits so many frames at once; finds one face in each."""
    def __init__(self, fits):
        self.fits, self.calls = fits, []
    def detect(self, frames_BCHW):
        n = len(frames_BCHW)
        self.calls.append(n)
        if n > self.fits:
            raise torch.OutOfMemoryError("tried to allocate too much")
        mean_B = frames_BCHW.float().mean((1, 2, 3))
        boxes = torch.stack([mean_B, mean_B, mean_B + 1, mean_B + 1], 1)
        return Detections(torch.arange(n), boxes, torch.ones(n), None)

def small(weights, fits):
    return Small(fits)
'''


@pytest.fixture
def annotator(tmp_path, monkeypatch):
    """annotator(fits) hosts a face model on whose device so many frames have room."""

    def make(fits):
        (tmp_path / "small_device.py").write_text(MODEL)
        entry = f"{{factory: 'small_device:small', input: frames, parameters: {{fits: {fits}}}}}"
        (tmp_path / "bundle.yaml").write_text(f"models:\n  face: {entry}\n")
        models = resolve_bundle(str(tmp_path / "bundle.yaml")).models
        return Annotator(models, AnnotatorSettings("cpu", batch_frames=16))

    return make


def flow_chunk(frames):
    """A chunk of frames of 8 x 6 pixels, each of another gray."""
    row = dict.fromkeys(schema.FLOW.names) | {"clip_id": "c", "shard": "s", "first": 0, "last": True}
    row |= {"frames": list(range(frames)), "times": [0.0] * frames, "width": 8, "height": 6, "matrix": "bt601"}
    planes = np.repeat(np.arange(frames, dtype=np.uint8), 8 * 6 * 3 // 2)
    row |= {"full_range": True, "planes": planes.tobytes(), "slots": ["face"]}
    return pa.Table.from_pylist([row], schema=schema.FLOW)


def faces(rows):
    """Frame of each face, and its numbers; points are not compared, for the model gives none (NaN)."""
    numbers = np.array(rows["face"][0].as_py()).reshape(-1, FACE_WIDTH)
    return rows["face_index"][0].as_py(), numbers[:, :5].tolist()


def test_the_batch_is_halved_until_it_fits_and_stays_so(annotator):
    model = annotator(fits=5)
    detect = model.nets["face"]
    first = faces(model(flow_chunk(frames=20)))
    assert first[0] == list(range(20))
    assert detect.calls[:3] == [16, 8, 4]
    assert max(detect.calls[2:]) == 4
    detect.calls.clear()
    assert faces(model(flow_chunk(frames=20))) == first
    assert detect.calls == [4] * 5


def test_results_do_not_depend_on_it(annotator):
    chunk = flow_chunk(frames=20)
    assert faces(annotator(fits=3)(chunk)) == faces(annotator(fits=16)(chunk))


def test_one_frame_too_large_is_told(annotator):
    with pytest.raises(torch.OutOfMemoryError):
        annotator(fits=0)(flow_chunk(frames=3))
