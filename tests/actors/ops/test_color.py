import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from actors.ops.color import unpack_planes, yuv420_to_rgb

MATRICES = ("bt601", "bt709", "bt2020")
sides = st.integers(1, 17)


def random_planes(count, height, width, seed=3):
    size = count * (height * width + 2 * ((height + 1) // 2) * ((width + 1) // 2))
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), sides, sides)
def test_planes_lie_frame_by_frame_end_to_end(count, height, width):
    planes = random_planes(count, height, width)
    y, u, v = unpack_planes(planes, count, height, width)
    assert torch.equal(torch.cat([part.reshape(count, -1) for part in (y, u, v)], dim=1).reshape(-1), planes)
    assert y.shape == (count, height, width)
    assert u.shape == v.shape == (count, (height + 1) // 2, (width + 1) // 2)
    assert y.data_ptr() == planes.data_ptr()  # a view


def test_planes_of_another_length_are_refused():
    with pytest.raises(ValueError, match="2 frames of 4x4 take 48 bytes of planes, got 47"):
        unpack_planes(torch.zeros(47, dtype=torch.uint8), 2, 4, 4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), sides, sides, st.sampled_from(MATRICES), st.booleans())
def test_a_pixel_depends_on_its_own_samples_alone(count, height, width, matrix, full_range):
    """Every pixel, converted as a frame of its own, whatever the size, the batch and the place."""
    y, u, v = unpack_planes(random_planes(count, height, width), count, height, width)
    frames = yuv420_to_rgb(y, u, v, matrix, full_range)
    assert frames.shape == (count, 3, height, width)
    rows, columns = torch.arange(height) // 2, torch.arange(width) // 2
    u, v = (plane[:, rows][:, :, columns].reshape(-1, 1, 1) for plane in (u, v))
    alone = yuv420_to_rgb(y.reshape(-1, 1, 1), u, v, matrix, full_range)
    assert torch.equal(frames.permute(0, 2, 3, 1).reshape(-1, 3), alone[:, :, 0, 0])


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(("full_range", "black", "white"), [(False, 16, 235), (True, 0, 255)])
def test_gray_stays_gray_and_covers_the_range(matrix, full_range, black, white):
    y = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    gray = torch.full((1, 8, 8), 128, dtype=torch.uint8)
    frames = yuv420_to_rgb(y, gray, gray, matrix, full_range).reshape(3, 256)
    assert torch.equal(frames[0], frames[1])
    assert torch.equal(frames[0], frames[2])
    assert frames[0, black] == 0
    assert frames[0, white] == 255
    assert (frames[0].int().diff() >= 0).all()


@pytest.mark.parametrize("matrix", MATRICES)
def test_colors_are_those_of_the_standard(matrix):
    """Against the defining equations in floating point; swscale's rounding down leaves up to three levels."""
    red, blue = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}[matrix]
    rgb = np.random.default_rng(5).uniform(0, 1, (500, 3))
    luma = rgb @ [red, 1 - red - blue, blue]
    y, u, v = (
        torch.from_numpy(np.round(values).astype(np.uint8)).reshape(500, 1, 1)
        for values in (
            16 + 219 * luma,
            128 + 224 * (rgb[:, 2] - luma) / (2 * (1 - blue)),
            128 + 224 * (rgb[:, 0] - luma) / (2 * (1 - red)),
        )
    )
    ours = yuv420_to_rgb(y, u, v, matrix, full_range=False)[:, :, 0, 0].numpy()
    assert np.abs(ours - 255 * rgb).max() < 4.5


@pytest.mark.parametrize(
    ("name", "codec", "size", "space", "matrix"),
    [
        ("untagged.mp4", "libx264", (640, 360), 2, "bt601"),
        ("bt709.mp4", "libx264", (512, 512), 1, "bt709"),
        ("pal.mpg", "mpeg1video", (360, 288), 2, "bt601"),
    ],
)
def test_frames_are_those_that_swscale_gives(tmp_path, name, codec, size, space, matrix):
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(astronaut()[: size[1], : size[0]]), "rgb24")
    with av.open(str(tmp_path / name), "w") as out:
        stream = out.add_stream(codec, rate=25, bit_rate=4_000_000)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.codec_context.colorspace = space
        out.mux(stream.encode(picture.reformat(*size, "yuv420p", dst_colorspace=space if space == 1 else 5)))
        out.mux(stream.encode(None))
    with av.open(str(tmp_path / name)) as container:
        frame = next(container.decode(video=0))
        planes = frame.to_ndarray(format="yuv420p").reshape(-1)
        expected = frame.to_ndarray(format="rgb24")
    assert (frame.colorspace == 1) == (matrix == "bt709")
    y, u, v = unpack_planes(torch.from_numpy(planes), 1, frame.height, frame.width)
    ours = yuv420_to_rgb(y, u, v, matrix, full_range=False)[0].permute(1, 2, 0).numpy()
    # no value differs on x86; other processors' paths in swscale round differently
    assert np.abs(ours.astype(int) - expected).max() <= 3
    assert np.abs(ours.astype(int) - expected).mean() < 1.5


def test_no_frame_and_no_such_matrix():
    y, u, v = unpack_planes(torch.zeros(0, dtype=torch.uint8), 0, 5, 7)
    assert yuv420_to_rgb(y, u, v, "bt709", full_range=True).shape == (0, 3, 5, 7)
    with pytest.raises(ValueError, match="'bt470'"):
        yuv420_to_rgb(y, u, v, "bt470", full_range=True)
