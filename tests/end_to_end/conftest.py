"""One Ray for all end-to-end tests, and the main job as a function."""

import os
import shutil
import subprocess
import sys
import tarfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from PIL import Image

from jobs import annotate as job
from jobs.commands.demo import make_corpus, portraits
from pipeline.config.models import load_config

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"

#: file of `known_clips` -> faces of each of its frames
FACES = {
    "astronaut_pan.mp4": [1] * 36,
    "astronaut_flip_light.mp4": [1] * 36,
    "comes_and_goes.mov": [1] * 24 + [0] * 24,
    "cut.mp4": [1] * 36,
    "hopper_pan.mp4": [1] * 36,
    "hopper_zoom.mp4": [1] * 36,
    "nobody.mp4": [0] * 36,
    "small.mpg": [1] * 30,
    "two_people.mp4": [2] * 36,
}


@pytest.fixture(scope="session")
def local_ray():
    import ray

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["OMP_WAIT_POLICY"] = "passive"  # as jobs/ray_cluster.py does for a cluster of its own
    ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def known_clips(tmp_path_factory):
    """A folder of clips whose faces are known, see FACES.

    They are the demo's (640x360, H.264, 24 frames/s; `two_people` and `cut` show both people), and two that differ:
    `comes_and_goes.mov` (HEVC, variable frame rate), which the astronaut leaves after half of its frames, and
    `small.mpg` (320x240, MPEG-2), which shows Grace Hopper.
    """
    folder = tmp_path_factory.mktemp("known_clips")
    make_corpus(str(folder / "shards"))
    for shard in (folder / "shards").iterdir():
        with tarfile.open(shard) as tar:
            tar.extractall(folder / "clips", [m for m in tar if m.name in FACES], filter="data")
    astronaut, hopper = map(Image.fromarray, portraits())

    def view(picture, left, top, width, size):
        box = (left, top, left + width, top + width * size[1] / size[0])
        return np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=box))

    goes = [view(astronaut, 10 + i, 12, 410, (640, 360)) for i in range(24)] + [
        np.full((360, 640, 3), 90, np.uint8)
    ] * 24
    # 25 and 20 frames/s in turn
    at = [50 * (i // 2) * 9 // 5 + 40 * (i % 2) for i in range(48)]
    _encode(folder / "clips" / "comes_and_goes.mov", "libx265", goes, at, Fraction(1, 1000))
    small = [view(hopper, 0, i, 512, (320, 240)) for i in range(30)]
    _encode(folder / "clips" / "small.mpg", "mpeg2video", small, range(30), Fraction(1, 25))
    assert {path.name for path in (folder / "clips").iterdir()} == set(FACES)
    return folder / "clips"


@pytest.fixture(scope="session")
def known_faces():
    """File of `known_clips` -> faces of each of its frames."""
    return FACES


def _encode(path, codec, pictures, times, time_base):
    """Write a clip; `times` of its frames are in units of `time_base`."""
    options = {"libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1"}}
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, bit_rate=2_000_000, options=options.get(codec, {}))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", time_base
        for picture, at in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = at, time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.fixture(scope="session")
def shared_bundle(weights, tmp_path_factory):
    """The bundle of the small published weights, with full paths, beside its factories."""
    folder = tmp_path_factory.mktemp("bundle")
    shutil.copy(BUNDLES / "shared_models.py", folder)
    bundle = yaml.safe_load((BUNDLES / "shared.yaml").read_text())
    for entry in bundle["models"].values():
        entry["weights"] = str(weights / Path(entry["weights"]).name)
    (folder / "shared.yaml").write_text(yaml.safe_dump(bundle))
    return str(folder / "shared.yaml")


@pytest.fixture(scope="session")
def annotate(local_ray):
    """The main job: annotate(corpus, out, bundle, 'a.b=c', ...) -> Report."""

    def run(corpus, out, bundle, *assignments):
        # logical GPUs are there for the tests of pools; all others run on the CPU
        gpus = [] if any("pools" in a or "gpus" in a for a in assignments) else ["actors.gpus=0"]
        return job.run(str(corpus), str(out), bundle, load_config(None, [*gpus, *assignments], {}))

    return run


@pytest.fixture(scope="session")
def command():
    """The command line in a process of its own: exit code, output, seconds, and which heavy packages it loaded."""
    program = (
        "import sys\nfrom jobs.cli import app\ntry:\n    app(sys.argv[1:])\nfinally:\n"
        "    print('LOADED', [name for name in ('ray', 'torch') if name in sys.modules], file=sys.stderr)"
    )

    def run(*arguments):
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr, time.monotonic() - begun

    return run
