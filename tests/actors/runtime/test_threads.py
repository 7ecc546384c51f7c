"""Threads of an actor on the CPU: each takes frames of its own, and no result hangs on how many there are."""

import os
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data
import torch

from actors import FaceAnalyzer
from actors.runtime.frames import ChunkFrames, make_frame_batches
from actors.runtime.threads import Lanes

FACTORY = "def build(weights):\n    return lambda crops_NCHW: crops_NCHW.flatten(1)[:, :512]\n"
ENTRY = "extends: tiny\nmodels:\n  embeddings: {factory: 'own_model:build', input: crops112, same_person_cosine: 0.3"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """Nine frames of the portrait of an astronaut, each shifted a little."""
    picture = skimage.data.astronaut()
    path = tmp_path_factory.mktemp("lanes") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 320, 240
        for shift in range(0, 45, 5):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:240, shift + 40 : shift + 360]))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def test_lanes_work_beside_each_other_with_one_thread_each():
    meet = threading.Barrier(2, timeout=30)

    def part(lane: int) -> tuple[int, int]:
        meet.wait()
        return lane, torch.get_num_threads()

    assert Lanes(2).run(part) == [(0, 1), (1, 1)]


def test_an_error_leaves_when_every_lane_has_ended():
    ended = threading.Event()

    def part(lane: int) -> None:
        if lane == 0:
            raise ValueError("broken")
        ended.wait(0.2)
        ended.set()

    with pytest.raises(ValueError, match="broken"):
        Lanes(2).run(part)
    assert ended.is_set()


@pytest.mark.parametrize(("frames", "lanes"), [(1, 1), (1, 4), (7, 2), (32, 2), (33, 3)])
def test_every_frame_is_in_one_batch_and_lanes_get_alike(frames, lanes):
    chunk, cpu = ChunkFrames(np.zeros(frames * 96, np.uint8), frames, 8, 8, "bt601", True, 0), torch.device("cpu")
    shares = [list(make_frame_batches([chunk], cpu, 5, 1 << 20, lane=k, lanes=lanes)) for k in range(lanes)]
    counts = [[len(batch.frame_B) for batch in share] for share in shares]
    assert sorted(int(k) for share in shares for batch in share for k in batch.frame_B) == list(range(frames))
    assert max(map(max, filter(None, counts))) <= 5
    assert max(map(sum, counts)) - min(map(sum, counts)) <= max(map(max, filter(None, counts)))


def test_results_do_not_depend_on_the_number_of_lanes(clip):
    alone, beside = (FaceAnalyzer("tiny", device="cpu", threads=threads).detect(clip) for threads in (1, 2))
    assert alone["frame"].to_pylist() == beside["frame"].to_pylist() == list(range(9))
    for name in ("box_x1", "score", "sharpness", "landmarks", "pose_yaw", "happiness", "embedding", "gaze_yaw"):
        ours, theirs = (np.array(table[name].to_pylist(), float) for table in (alone, beside))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_a_users_model_gets_one_call_at_a_time_unless_it_is_said_to_be_thread_safe(tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_model.py").write_text(FACTORY)
    for said, lanes in (("}", 1), (", thread_safe: true}", min(2, os.cpu_count() or 1))):
        (tmp_path / "bundle.yaml").write_text(ENTRY + said + "\n")
        analyzer = FaceAnalyzer(str(tmp_path / "bundle.yaml"), device="cpu", threads=2)
        assert analyzer._annotate.lanes.count == lanes
