"""Color conversion from planar YUV 4:2:0, as frames travel, to RGB, the input of models.

The arithmetic is that of swscale's fast yuv420p -> rgb24 path, the default of the usual decoders (PyAV's
`to_ndarray(format="rgb24")`, torchcodec): 13-bit coefficients, every product rounded down on its own, and each chroma
sample used for its 2x2 pixels. Measured on one frame of each of 20 videos (MPEG-1, H.264, HEVC; BT.601 and BT.709)
against PyAV 18 with libswscale 9.5 on x86: no value differs. In floating point and rounded, nearest chroma is 1.1
levels off on average and at most 3 (swscale rounds down), bilinear chroma 1.3 and up to 77, at colored edges. At an
odd height swscale leaves the fast path and interpolates chroma; here chroma stays nearest, whatever the size.

Shapes: B frames, H rows, W columns; h = ceil(H / 2), w = ceil(W / 2).
"""

from torch import Tensor, empty, int16, int32, uint8

from pipeline.schema import LUMA_WEIGHTS

_BITS = 13
# Intermediate planes are 16 and 32 bit. On the CPU a block of this many pixels keeps them in the cache, which is three
# times as fast as the whole batch at once; a GPU wants few launches.
_CPU_BLOCK_PIXELS = 1 << 19
_GPU_BLOCK_PIXELS = 1 << 26


def unpack_planes(planes: Tensor, count: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of the planes of frames that are stored end to end.

    Args:
        planes: uint8, 1-D: per frame Y (height x width), then U, then V (each ceil(height/2) x ceil(width/2)).
        count: number of frames.
        height: px of a frame.
        width: px of a frame.

    Returns:
        y_BHW, u_Bhw, v_Bhw: views of `planes`; nothing is copied.

    Raises:
        ValueError: `planes` has another length.
    """
    chroma_height, chroma_width = (height + 1) // 2, (width + 1) // 2
    luma, chroma = height * width, chroma_height * chroma_width
    if planes.numel() != count * (luma + 2 * chroma):
        expected = count * (luma + 2 * chroma)
        raise ValueError(f"{count} frames of {width}x{height} take {expected} bytes of planes, got {planes.numel()}")
    frames = planes.view(count, luma + 2 * chroma)
    return (
        frames[:, :luma].unflatten(1, (height, width)),
        frames[:, luma : luma + chroma].unflatten(1, (chroma_height, chroma_width)),
        frames[:, luma + chroma :].unflatten(1, (chroma_height, chroma_width)),
    )


def yuv420_to_rgb(y_BHW: Tensor, u_Bhw: Tensor, v_Bhw: Tensor, matrix: str, full_range: bool) -> Tensor:
    """RGB frames from planar YUV 4:2:0.

    Args:
        y_BHW: uint8 luma, any device; odd H and W are fine, B may be 0.
        u_Bhw: uint8 blue difference.
        v_Bhw: uint8 red difference.
        matrix: bt601, bt709 or bt2020.
        full_range: luma and chroma use 0-255, else 16-235 and 16-240.

    Returns:
        frames_BCHW uint8 RGB on the same device.

    Raises:
        ValueError: unknown matrix.
    """
    offset, luma, red_v, green_u, green_v, blue_u = _coefficients(matrix, full_range)
    count, height, width = y_BHW.shape
    frames_BCHW = empty((count, 3, height, width), dtype=uint8, device=y_BHW.device)
    block_pixels = _GPU_BLOCK_PIXELS if y_BHW.is_cuda else _CPU_BLOCK_PIXELS
    step = max(1, block_pixels // max(1, height * width))
    for begin in range(0, count, step):
        block = slice(begin, begin + step)
        light_BHW = _scaled(y_BHW[block], offset, luma)
        u, v = u_Bhw[block], v_Bhw[block]
        for channel, shift_Bhw in (
            (0, _scaled(v, 128, red_v)),
            (1, _scaled(u, 128, green_u).add_(_scaled(v, 128, green_v))),
            (2, _scaled(u, 128, blue_u)),
        ):
            shift_BhW = shift_Bhw.repeat_interleave(2, dim=2)[:, :, :width]
            for odd in (0, 1):
                rows_BhW = light_BHW[:, odd::2]
                frames_BCHW[block, channel, odd::2] = (rows_BhW + shift_BhW[:, : rows_BhW.shape[1]]).clamp_(0, 255)
    return frames_BCHW


def _scaled(plane: Tensor, zero: int, coefficient: int) -> Tensor:
    """(plane - zero) x coefficient in fixed point, rounded down; int16."""
    return plane.to(int32).sub_(zero).mul_(coefficient).bitwise_right_shift_(_BITS).to(int16)


def _coefficients(matrix: str, full_range: bool) -> tuple[int, int, int, int, int, int]:
    """Luma's zero, and fixed-point factors: Y, V in red, U in green, V in green, U in blue (ITU-R BT.601, sec. 2.5)."""
    if matrix not in LUMA_WEIGHTS:
        raise ValueError(f"no YUV matrix {matrix!r}; known: {', '.join(LUMA_WEIGHTS)}")
    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    luma_scale, chroma_scale = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    factors = (
        luma_scale,
        2 * (1 - red) * chroma_scale,
        -2 * (1 - blue) * blue / green * chroma_scale,
        -2 * (1 - red) * red / green * chroma_scale,
        2 * (1 - blue) * chroma_scale,
    )
    y, red_v, green_u, green_v, blue_u = (round(factor * (1 << _BITS)) for factor in factors)
    return 0 if full_range else 16, y, red_v, green_u, green_v, blue_u
