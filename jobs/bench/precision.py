"""Deviation of each network in half precision from float32, on real faces; printed as a Markdown table.

    python -m jobs.bench.precision --weights MIRROR --data FOLDER > docs/parity_precision.md

Convolutions and matrix products of halves are calculated in float32 and their results rounded, as processors with
instructions for them do it; without those instructions torch's own kernels are ten times slower and say the same.
Everything else runs in half precision as it is.

Shapes: B frames, N faces, C H W channels, rows, columns.
"""

import argparse
import copy
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_iou

from actors.models import Detections
from actors.models.img2pose import Img2Pose, normalize, place_regions, read_config, resized_size
from actors.models.region_proposals import pool_regions
from actors.models.retinaface import decode_boxes, decode_points, frame_anchors
from actors.ops.crops import EXPAND_112, EXPAND_224, crop_boxes, crop_faces, landmarks_to_frame
from actors.ops.geometry import euler_angles, rotation_matrix
from actors.runtime.bn_folding import fold_batch_norms
from actors.weights.catalog import MODELS, HubFile
from jobs.bench.standins import NETS

_LONGEST_SIDE = 1024
_FRAMES_PER_VIDEO = 8
_HALVES = (torch.bfloat16, torch.float16)
_FEWER = {"resmasknet": 32}  # 137 million weights
_BATCH = 8
_FRAMES_OF_LARGE_DETECTORS = 16


@dataclass(frozen=True)
class Measure:
    """How an output is judged.

    Attributes:
        name: of the output, with its unit.
        tolerance: largest deviation allowed.
        deviation: float32 output, half output -> deviations, any shape.
    """

    name: str
    tolerance: float
    deviation: Callable[[Tensor, Tensor], Tensor]


def _difference(scale: float, columns: slice = slice(None)) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda exact, half: (half - exact)[:, columns].abs() * scale


_DEGREE = float(np.degrees(1.0))
#: slot -> measures; the tolerances are those of docs/parity.md, and gaze has that of the pose
MEASURES = {
    "face": (
        Measure("box (px)", 1.0, _difference(1, slice(0, 4))),
        Measure("score", 0.02, _difference(1, slice(4, 5))),
        Measure("points (px)", 1.0, _difference(1, slice(5, None))),
    ),
    "img2pose": (
        Measure("box (px)", 1.0, _difference(1, slice(0, 4))),
        Measure("score", 0.02, _difference(1, slice(4, 5))),
        Measure("angles (degree)", 0.5, _difference(_DEGREE, slice(5, 8))),
    ),
    "landmarks": (Measure("landmarks (px of 112)", 0.5, _difference(112)),),
    "pose": (Measure("angles (degree)", 0.5, _difference(_DEGREE, slice(0, 3))),),
    "emotions": (Measure("probability", 0.02, _difference(1)),),
    "embeddings": (Measure("1 - cosine", 0.001, lambda exact, half: 1 - torch.cosine_similarity(exact, half)),),
    "gaze": (Measure("pitch, yaw (degree)", 0.5, _difference(_DEGREE, slice(0, 2))),),
}


class Float32Products(TorchDispatchMode):
    """Convolutions and products of halves in float32, their results rounded to the half type."""

    _OPERATORS = (
        torch.ops.aten.convolution.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.mm.default,
    )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs one operator."""
        if func not in self._OPERATORS or args[0].dtype not in _HALVES:
            return func(*args, **(kwargs or {}))
        widened = [arg.float() if isinstance(arg, Tensor) else arg for arg in args]
        return func(*widened, **(kwargs or {})).to(args[0].dtype)


def deviations(
    name: str, run: Callable[[nn.Module], Tensor], net: nn.Module, measures: tuple[Measure, ...]
) -> list[str]:
    """Cells of the table for one network, a row per output: largest deviation and 99th percentile, of either type.

    Args:
        name: for the first cells.
        run: gives the network's output, (N, ...) float32.
        net: in float32.
        measures: of its outputs.
    """
    fold_batch_norms(net.eval())
    exact = run(net)
    halves = {}
    for dtype in _HALVES:
        with Float32Products():
            halves[dtype] = run(copy.deepcopy(net).to(dtype))
    rows = []
    for one in measures:
        cells = []
        for half in halves.values():
            deviation = one.deviation(exact, half).flatten()
            # NaN, where half precision overflowed or lost a face, must not look like agreement
            deviation = deviation.nan_to_num(nan=float("inf"), posinf=float("inf"))
            largest = float(deviation.max())
            # between infinities nothing can be interpolated
            usual = float(np.percentile(deviation.numpy(), 99)) if np.isfinite(largest) else largest
            verdict = "" if largest <= one.tolerance else " (too far)"
            cells.append(f"{largest:.2g} / {usual:.2g}{verdict}")
        rows.append(f"| {name} | {len(exact)} | {one.name} | {one.tolerance:g} | " + " | ".join(cells) + " |")
    return rows


def read_pictures(folder: Path) -> Iterator[Tensor]:
    """uint8 RGB (1, 3, H, W), at most 1024 pixels a side: pictures, then some frames of each video."""
    for path in sorted((folder / "images").rglob("*.jpg")):
        yield _frame(Image.open(path))
    for path in sorted((folder / "videos").iterdir()):
        with av.open(str(path)) as container:
            frames = list(container.decode(container.streams.video[0]))
        for index in np.linspace(0, len(frames) - 1, _FRAMES_PER_VIDEO).astype(int):
            yield _frame(frames[index].to_image())


def _frame(image: Image.Image) -> Tensor:
    image = image.convert("RGB")
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


def _detect(frames: list[Tensor], expected: list[Detections]) -> Callable[[nn.Module], Tensor]:
    """Runs a face model; a row per face of float32: box, score, points of what overlaps it most, NaN if nothing."""

    def run(net: Any) -> Tensor:
        rows = []
        for frame, faces in zip(frames, expected, strict=True):
            found = net.detect(frame)
            values = torch.cat([found.boxes_N4, found.scores_N[:, None], found.points_N52.flatten(1)], dim=1)
            values = torch.cat([values, torch.full((1, 15), float("nan"))])
            overlap = torch.nn.functional.pad(box_iou(faces.boxes_N4, found.boxes_N4), (0, 1), value=0.5)
            rows.append(values[overlap.argmax(1)])
        return torch.cat(rows)

    return run


def _at_faces(frames: list[Tensor], expected: list[Detections]) -> Callable[[nn.Module], Tensor]:
    """Runs a RetinaFace as far as its raw outputs; a row per face, of the anchor that overlaps it most.

    For random weights, which find no faces: box, score and points are judged where faces are.
    """

    def run(net: Any) -> Tensor:
        rows = []
        for frame, faces in zip(frames, expected, strict=True):
            height, width = frame.shape[-2:]
            size_4 = torch.tensor([width, height]).repeat(2)
            anchors_A4 = frame_anchors(height, width, frame.device)
            corners_A4 = decode_boxes(torch.zeros_like(anchors_A4), anchors_A4)
            nearest_N = box_iou(faces.boxes_N4, corners_A4 * size_4).argmax(1)
            deltas, probabilities, points = (output[0, nearest_N].float() for output in net(net.normalize(frame)))
            boxes_N4 = decode_boxes(deltas, anchors_A4[nearest_N]) * size_4
            points_N52 = decode_points(points, anchors_A4[nearest_N]) * size_4[:2]
            rows.append(torch.cat([boxes_N4, probabilities[:, 1:], points_N52.flatten(1)], dim=1))
        return torch.cat(rows)

    return run


def _in_regions(frames: list[Tensor], expected: list[Detections]) -> Callable[[nn.Module], Tensor]:
    """Runs img2pose's backbone and heads on regions that are the faces; a row per face: box, score, angles.

    For random weights, whose proposals are no faces.
    """

    def run(net: Any) -> Tensor:
        rows = []
        for frame, faces in zip(frames, expected, strict=True):
            frame_size = frame.shape[-2], frame.shape[-1]
            size = resized_size(*frame_size, net.config.min_size, net.config.max_size)
            dtype = net.rpn.head.conv.weight.dtype
            levels = list(net.backbone(normalize(frame, size).to(dtype)).values())
            regions_N4 = faces.boxes_N4 * torch.tensor([size[1] / frame_size[1], size[0] / frame_size[0]]).repeat(2)
            rois_N5 = torch.nn.functional.pad(regions_N4, (1, 0))
            pooled_NCHW = pool_regions(levels, rois_N5).to(dtype)
            scores_N = net.roi_heads.logits(pooled_NCHW).float().softmax(1)[:, 1]
            deltas_N6 = net.roi_heads.poses(pooled_NCHW).float()
            poses_N6, boxes_N4 = place_regions(regions_N4, deltas_N6, size, net.config)
            angles_N3 = torch.stack(euler_angles(rotation_matrix(poses_N6[:, :3])).unbind(1), dim=1)
            rows.append(torch.cat([boxes_N4 * frame_size[1] / size[1], scores_N[:, None], angles_N3], dim=1))
        return torch.cat(rows)

    return run


def _in_batches(inputs: Tensor) -> Callable[[nn.Module], Tensor]:
    return lambda net: torch.cat([net(part) for part in inputs.split(_BATCH)])


def _files(name: str, files: Mapping[str, Any], folder: Path) -> dict[str, Path] | None:
    """The files of a model in a mirror, or flat in a folder; None if one is not there."""
    found = {}
    for role, file in files.items():
        if not isinstance(file, HubFile):
            return None
        places = [folder / file.repo / one for one in file.names]
        places += [folder / f"{name}.safetensors", *(folder / one for one in file.names)]
        there = [place for place in places if place.is_file()]
        if not there:
            return None
        found[role] = there[0]
    return found


def _build(slot: str, name: str, folder: Path) -> tuple[nn.Module, str]:
    """A network and where its weights are from."""
    card = MODELS[slot][name]
    files = _files(name, card.files, folder)
    if files is not None:
        module_name, _, function = card.builder.partition(":")
        return getattr(importlib.import_module(module_name), function)(files), "published"
    net = NETS[name]()
    draw_weights(net)
    return net, "random"


def draw_weights(net: nn.Module) -> None:
    """Random weights through which signals neither vanish nor grow, the same at each call."""
    torch.manual_seed(0)
    for module in net.requires_grad_(False).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=(0.8 / module.weight[0].numel()) ** 0.5)


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="mirror, or folder of weight files")
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and videos/")
    parser.add_argument("--img2pose-config", type=Path, help="config.json of img2pose; without it, no row")
    parser.add_argument("--faces", type=int, default=256, help="at most so many, evenly out of all that are found")
    options = parser.parse_args()

    detector, _ = _build("face", "retinaface_mnet025", options.weights)
    frames, found = [], []
    for frame in read_pictures(options.data):
        faces = detector.detect(frame)  # type: ignore[operator]
        if len(faces):
            frames.append(frame)
            found.append(faces)
    step = max(1, -(-sum(map(len, found)) // options.faces))
    frames, found = frames[::step], found[::step]

    print("| model | weights | faces | output | tolerance | bfloat16: largest / 99 % | float16: largest / 99 % |")
    print("|---|---|---|---|---|---|---|")

    def show(slot: str, name: str, run: Callable[[nn.Module], Tensor]) -> nn.Module:
        net, source = _build(slot, name, options.weights)
        for row in deviations(f"`{name}` | {source}", run, net, MEASURES[slot]):
            print(row, flush=True)
        return net

    show("face", "retinaface_mnet025", _detect(frames, found))
    some = slice(None, None, -(-len(frames) // _FRAMES_OF_LARGE_DETECTORS))
    show("face", "retinaface_r34", _at_faces(frames[some], found[some]))
    if options.img2pose_config:
        net = Img2Pose(read_config(options.img2pose_config), 0.5)
        draw_weights(net)
        for row in deviations("`img2pose` | random", _in_regions(frames[some], found[some]), net, MEASURES["img2pose"]):
            print(row, flush=True)
    crops112 = _crops(frames, found, 112, EXPAND_112)
    landmarker = show("landmarks", "mobilefacenet", _in_batches(crops112))
    show("landmarks", "pfld", _in_batches(crops112))
    show("landmarks", "mobilenet", _in_batches(_crops(frames, found, 224, EXPAND_112)))
    boxes = crop_boxes(torch.cat([faces.boxes_N4 for faces in found]), EXPAND_112)
    show("pose", "pose_mlp", _in_batches(landmarks_to_frame(_in_batches(crops112)(landmarker), boxes)))
    for slot, name in (("embeddings", "arcface_r50"), ("embeddings", "facenet"), ("gaze", "l2cs")):
        show(slot, name, _in_batches(crops112))
    crops224 = _crops(frames, found, 224, EXPAND_224)
    few = crops224[:: max(1, len(crops224) // _FEWER["resmasknet"])]
    show("emotions", "resmasknet", _in_batches(few))


def _crops(frames: list[Tensor], found: list[Detections], size: int, expand: float) -> Tensor:
    return torch.cat(
        [
            crop_faces(frame, faces.frame_N, faces.boxes_N4, size=size, expand=expand)
            for frame, faces in zip(frames, found, strict=True)
        ]
    )


if __name__ == "__main__":
    main()
