"""Frames on their way to the models: those of a chunk as they travel, and batches of one size on the device."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.ops.color import unpack_planes, yuv420_to_rgb


@dataclass(frozen=True)
class ChunkFrames:
    """The frames of one chunk as they travel: planar YUV 4:2:0, on the host.

    Attributes:
        yuv420: uint8, 1-D; per frame Y, U, V end to end.
        count: frames.
        height, width: of every frame, px.
        matrix: bt601, bt709 or bt2020.
        full_range: luma and chroma use 0-255.
        offset: number of its first frame within the call.
    """

    yuv420: np.ndarray
    count: int
    height: int
    width: int
    matrix: str
    full_range: bool
    offset: int


@dataclass(frozen=True)
class FrameBatch:
    """Frames of one size on the device.

    Attributes:
        frames_BCHW: uint8 RGB.
        frame_B: int64, number of each frame within the call.
    """

    frames_BCHW: Tensor
    frame_B: Tensor


def make_frame_batches(
    chunks: Sequence[ChunkFrames],
    device: torch.device,
    batch_frames: int,
    batch_pixels: int,
    *,
    lane: int = 0,
    lanes: int = 1,
) -> Iterator[FrameBatch]:
    """Move the frames of all chunks to the device and convert them to RGB, in batches of one size and color space.

    Frames of different clips share a batch if they have the same size; the bytes go up as they are, half those of RGB.
    Batches are made one by one, so that only those live whose faces wait for their own batch to fill.

    Args:
        chunks: of one call.
        device: where the batches go.
        batch_frames: most frames of a batch.
        batch_pixels: most pixels of a batch; a batch has at least one frame, however large.
        lane: which of the lanes asks; it gets every `lanes`-th batch, the same ones at every call.
        lanes: how many there are; all get about as many frames.

    Raises:
        RuntimeError: a chunk has more or fewer bytes than its frames take.
        ValueError: no such matrix.
    """
    groups: dict[tuple[int, int, str, bool], list[ChunkFrames]] = {}
    for chunk in chunks:
        if chunk.count:
            groups.setdefault((chunk.height, chunk.width, chunk.matrix, chunk.full_range), []).append(chunk)
    for (height, width, matrix, full_range), members in groups.items():
        size = height * width + 2 * ((height + 1) // 2) * ((width + 1) // 2)
        most = max(1, min(batch_frames, batch_pixels // (height * width)))
        frame_B = np.concatenate([np.arange(c.offset, c.offset + c.count) for c in members])
        with warnings.catch_warnings():
            # frames lie read-only in Ray's shared memory; they are only read here
            warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable")
            frames = [torch.from_numpy(c.yuv420).view(c.count, size) for c in members]
        rounds = math.ceil(len(frame_B) / (most * lanes))
        # alone, a lane fills its batches; beside others it takes smaller ones, so that all end at the same time
        step = most if lanes == 1 else math.ceil(len(frame_B) / (rounds * lanes))
        for low in range(lane * step, len(frame_B), lanes * step):
            batch = _rows(frames, low, min(low + step, len(frame_B))).to(device, non_blocking=True)
            y, u, v = unpack_planes(batch.flatten(), len(batch), height, width)
            yield FrameBatch(
                yuv420_to_rgb(y, u, v, matrix, full_range), torch.from_numpy(frame_B[low : low + len(batch)]).to(device)
            )


def _rows(parts: Sequence[Tensor], low: int, high: int) -> Tensor:
    """Rows low..high of the parts laid end to end; a view where one part holds them all."""
    taken = []
    for part in parts:
        if low < len(part) and high > 0:
            taken.append(part[max(low, 0) : high])
        low, high = low - len(part), high - len(part)
    return taken[0] if len(taken) == 1 else torch.cat(taken)
