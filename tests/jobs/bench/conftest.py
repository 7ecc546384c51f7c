"""A video with one face in each frame."""

import numpy as np
import pytest
from PIL import Image

from jobs.commands.demo import encode, portraits


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """36 frames of 640x360, over which a portrait moves."""
    picture = Image.fromarray(portraits()[0])

    def look(t):
        left = 10 + 40 * t
        return np.asarray(picture.resize((640, 360), box=(left, 12, left + 410, 12 + 410 * 360 / 640)))

    path = tmp_path_factory.mktemp("video") / "astronaut.mp4"
    path.write_bytes(encode(look))
    return path
