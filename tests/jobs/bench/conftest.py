"""A video with one face in each frame."""

import av
import numpy as np
import pytest
from PIL import Image

from jobs.commands.demo import portraits


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """72 frames of 640x360, over which a portrait moves."""
    picture = Image.fromarray(portraits()[0])
    path = tmp_path_factory.mktemp("video") / "astronaut.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for i in range(72):
            left = 10 + i / 2
            view = picture.resize((640, 360), box=(left, 12, left + 410, 12 + 410 * 360 / 640))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(view), format="rgb24")))
        out.mux(stream.encode(None))
    return path
