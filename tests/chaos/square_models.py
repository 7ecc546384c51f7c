"""Models of the chaos tests: a face is a bright square; the colour of a frame's corner says what it does to a model.

red     aborts the process        green   hangs         blue    raises
"""

import os
import time

import torch
from torch import Tensor, nn

from actors.models import Detections


class Squares(nn.Module):
    """Finds the bright square of each frame; every call takes `delay_s`, so that there is time to kill it."""

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self.delay_s = delay_s

    def detect(self, frames_BCHW: Tensor) -> Detections:
        time.sleep(self.delay_s)
        red, green, blue = (frames_BCHW[:, i, :8, :8].float().mean() > 120 for i in range(3))
        if red and not green and not blue:
            os.abort()
        if green and not red and not blue:
            time.sleep(3600)
        if blue and not red and not green:
            raise ValueError("blue in the corner")
        bright_BHW = frames_BCHW.float().mean(1) > 170
        found = bright_BHW.flatten(1).any(1).nonzero()[:, 0]
        boxes = [_box(bright_BHW[i]) for i in found]
        boxes_N4 = torch.stack(boxes) if boxes else frames_BCHW.new_empty(0, 4).float()
        return Detections(found, boxes_N4, torch.ones(len(found)), None)


def _box(bright_HW: Tensor) -> Tensor:
    y, x = bright_HW.nonzero(as_tuple=True)
    return torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()


class Mood(nn.Module):
    """Seven numbers from the brightness of a crop."""

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        return (crops_NCHW.mean((1, 2, 3))[:, None] * torch.arange(1.0, 8.0)).softmax(-1)


def squares(weights: None, delay_s: float = 0.0) -> nn.Module:
    return Squares(delay_s)


def mood(weights: None) -> nn.Module:
    return Mood()
