"""A web server that notes who comes, and small videos."""

import functools
import http.server
import threading
from fractions import Fraction

import av
import numpy as np
import pytest


class Recorder:
    """A web server on this machine: `requests` holds the path of every request, whatever becomes of it."""

    def __init__(self, folder):
        self.requests = []
        recorder = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def send_head(self):
                recorder.requests.append(self.path)
                return super().send_head()

            def log_message(self, *arguments):
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def secret(tmp_path):
    """A folder with pictures and videos that no hostile file may make us read."""
    folder = tmp_path / "secret"
    folder.mkdir()
    for name in ("secret.ts", "secret.mov", "picture001.png"):
        encode_video(folder / name, frames=1 if name.endswith("png") else 5)
    return folder


@pytest.fixture
def server(secret):
    recorder = Recorder(secret)
    yield recorder
    recorder.server.shutdown()
    recorder.server.server_close()


def encode_video(path, frames=5, codec=None, times=None, size=64):
    """Grey pictures; `times` are presentation times in milliseconds."""
    codec = codec or {".png": "png", ".ts": "mpeg2video"}.get(path.suffix, "mpeg4")
    options = {"update": "1"} if path.suffix == ".png" else {}
    with av.open(str(path), "w", format="image2" if path.suffix == ".png" else None, options=options) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width = stream.height = size
        stream.pix_fmt = "rgb24" if codec == "png" else "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 40 * (i % 6), np.uint8), format="rgb24")
            frame.pts, frame.time_base = (i * 40 if times is None else times[i]), Fraction(1, 1000)
            for packet in stream.encode(frame):
                out.mux(packet)
        out.mux(stream.encode(None))
    return path


@pytest.fixture
def write_video():
    """Writes a small video: write_video(path, frames=5, codec=None, times=None, size=64) -> path."""
    return encode_video
