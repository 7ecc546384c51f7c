"""Augmentations that keep a face recognizable: light, color, blur, noise, compression, occlusion."""

import io
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Drawn = TypeVar("Drawn")


def ahead(draw: Callable[[], Drawn], depth: int = 4) -> Iterator[Drawn]:
    """What `draw` gives, endlessly, made by a thread while the caller works; an error of the thread is raised here."""
    made: queue.Queue[Drawn | BaseException] = queue.Queue(depth)

    def work() -> None:
        try:
            while True:
                made.put(draw())
        except BaseException as error:  # handed to the caller
            made.put(error)

    threading.Thread(target=work, daemon=True).start()
    while True:
        item = made.get()
        if isinstance(item, BaseException):
            raise item
        yield item


def disturb(crops_NCHW: Tensor, random: np.random.Generator, strength: float = 1.0) -> Tensor:
    """Disturb each picture in its own way; all geometry stays.

    Args:
        crops_NCHW: float32 RGB [0, 1].
        random: source of chance.
        strength: 0 leaves the pictures as they are.

    Returns:
        The same shape, in [0, 1].
    """
    num = len(crops_NCHW)

    def draw(low: float, high: float) -> Tensor:
        return torch.from_numpy(random.uniform(low, high, (num, 1, 1, 1)).astype(np.float32))

    def some(share: float) -> Tensor:
        return torch.from_numpy(random.random((num, 1, 1, 1)) < share * strength)

    gray = crops_NCHW.mean(1, keepdim=True)
    out = torch.where(some(0.1), gray.expand_as(crops_NCHW), gray + (crops_NCHW - gray) * draw(0.6, 1.4))
    tint = torch.from_numpy(random.uniform(0.88, 1.12, (num, 3, 1, 1)).astype(np.float32))
    out = out * torch.where(some(0.5), tint, torch.ones(()))
    gain = 1 + strength * draw(-0.35, 0.35)
    out = (out - 0.5) * (1 + strength * draw(-0.3, 0.3)) + 0.5
    out = (out * gain + strength * draw(-0.08, 0.08)).clamp(0, 1)
    out = out ** torch.exp(strength * draw(-0.4, 0.4))
    ramp = torch.linspace(-1, 1, crops_NCHW.shape[-1])
    light = draw(-1, 1) * ramp[None, None, None] + draw(-1, 1) * ramp[: crops_NCHW.shape[-2], None][None, None]
    out = out * torch.where(some(0.3), 1 + 0.3 * light, torch.ones(()))
    soft = F.avg_pool2d(out, 3, 1, 1, count_include_pad=False)
    softer = F.avg_pool2d(soft, 5, 1, 2, count_include_pad=False)
    out = torch.where(some(0.25), soft + (softer - soft) * draw(0, 1), out)
    noise = torch.from_numpy(random.standard_normal(out.shape, np.float32))
    out = (out + torch.where(some(0.3), draw(0, 0.05) * noise, torch.zeros(()))).clamp(0, 1)
    for row in np.flatnonzero(random.random(num) < 0.15 * strength):
        out[row] = compress(out[row], int(random.integers(25, 70)))
    for row in np.flatnonzero(random.random(num) < 0.12 * strength):
        _occlude(out[row], random)
    return out


def compress(picture_CHW: Tensor, quality: int) -> Tensor:
    """The picture after JPEG."""
    file = io.BytesIO()
    Image.fromarray((picture_CHW.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255


def _occlude(picture_CHW: Tensor, random: np.random.Generator) -> None:
    """Cover a rectangle with one color, in place."""
    height, width = picture_CHW.shape[1:]
    h, w = (int(side * random.uniform(0.1, 0.35)) for side in (height, width))
    top, left = int(random.integers(0, height - h)), int(random.integers(0, width - w))
    color = torch.from_numpy(random.random((3, 1, 1), np.float32))
    picture_CHW[:, top : top + h, left : left + w] = color
