"""Where the material of the tests lies: beside the checkout, or where the environment says."""

import os
from pathlib import Path

# before torch is imported: on a busy machine spinning OpenMP threads made these tests nine times slower
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import av
import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable, default):
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder} (or {variable}), which is not part of the project")
    return folder


@pytest.fixture(scope="session")
def data():
    """Folder with `videos`, `odd` and `images`."""
    return _folder("FACEATLAS_DATA", SHARED / "data")


@pytest.fixture(scope="session")
def weights():
    """Folder with small published weights."""
    return _folder("FACEATLAS_MODELS", SHARED / "models")


@pytest.fixture
def long_video(tmp_path):
    """Makes a 1080p video with a face, 30 frames/s, of any length: two seconds, repeated without encoding again."""

    def make(minutes):
        from skimage.data import astronaut

        picture = np.kron(astronaut()[:256, 100:356], np.ones((4, 4, 1), np.uint8))
        group = tmp_path / "group.mp4"
        with av.open(str(group), "w") as out:
            stream = out.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
            for i in range(60):
                frame = np.zeros((1080, 1920, 3), np.uint8)
                frame[28:1052, 8 * i : 8 * i + 1024] = picture
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode(None))
        path = tmp_path / "long.mp4"
        with av.open(str(group)) as source, av.open(str(path), "w") as out:
            stream = source.streams.video[0]
            target = out.add_stream_from_template(stream)
            packets = [(packet, packet.pts, packet.dts) for packet in source.demux(stream) if packet.size]
            length = round(60 / 30 / packets[0][0].time_base)
            for repeat in range(minutes * 30):
                for packet, pts, dts in packets:
                    packet.pts, packet.dts = pts + repeat * length, dts + repeat * length
                    packet.time_base, packet.stream = stream.time_base, target
                    out.mux(packet)
        group.unlink()
        return path

    return make
