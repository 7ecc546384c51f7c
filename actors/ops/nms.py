"""Non-maximum suppression for a whole batch of frames in one call, and the order of faces in the results."""

import functools
import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor


def suppress(boxes_M4: Tensor, scores_M: Tensor, frame_M: Tensor, iou: float) -> Tensor:
    """Indices of the boxes that non-maximum suppression keeps, frame by frame in one call, in falling score.

    Boxes are shifted by frame, so that those of different frames do not overlap. In float64, so that the shift does not
    round them: results of a frame then do not depend on its position in the batch.

    Args:
        boxes_M4: left, top, right, bottom in any unit; finite.
        scores_M: higher is better.
        frame_M: int64, the frame of each box.
        iou: intersection over union above which the box of lower score is dropped.

    Returns:
        int64 indices into the input.
    """
    if len(boxes_M4) == 0:
        return torch.empty_like(frame_M)
    exact_M4 = boxes_M4.to(torch.float64)
    span = exact_M4.max() - exact_M4.min() + 1
    _load_operators()
    return torch.ops.torchvision.nms(exact_M4 + (frame_M * span)[:, None], scores_M.to(torch.float64), iou)


def by_frame_then_score(frame_M: Tensor, scores_M: Tensor, limit: int) -> Tensor:
    """Indices that sort by frame, then falling score, then input order.

    Args:
        frame_M: int64, the frame of each box.
        scores_M: higher is better.
        limit: most boxes of a frame.

    Returns:
        int64 indices into the input.
    """
    order_M = scores_M.argsort(descending=True, stable=True)
    order_M = order_M[frame_M[order_M].argsort(stable=True)]
    if len(order_M) <= limit:  # spares the GPU a wait: the length of what a mask leaves is known on the device only
        return order_M
    frame_M = frame_M[order_M]
    rank_M = torch.arange(len(order_M), device=order_M.device) - torch.searchsorted(frame_M, frame_M)
    return order_M[rank_M < limit]


@functools.cache
def _load_operators() -> None:
    """Load torchvision's compiled operators without the package, which brings torch's compilers with it.

    Importing the package takes 2 to 3 s of processor time and 1,000 modules, in every actor.
    """
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in Path(folder).glob("_C*"):
            if file.name.endswith(tuple(EXTENSION_SUFFIXES)):
                torch.ops.load_library(file)
    if not hasattr(torch.ops.torchvision, "nms"):  # an edition that keeps them elsewhere
        importlib.import_module("torchvision.ops")
