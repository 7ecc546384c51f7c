"""Training of the face detector of `tiny`: RetinaFace with MobileNetV1-0.25, from random weights.

First every block learns alone to map the teacher's feature maps at its input to those at its output; then all of it
learns the teacher's dense outputs together. The teacher looks at the same disturbed picture, so no label can be wrong.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from actors.models.retinaface import RetinaFace
from jobs.training.augment import ahead, disturb
from jobs.training.material import Scene
from jobs.training.schedule import descend

SIDE = 224  # px of a training picture
_LEAST, _MOST = 12, 215  # px, sides of the faces in it; frames are looked at in half their size
LARGE_SIDE = 2 * SIDE  # px of a training picture of large faces, one in place of four
_LARGE_LEAST, _LARGE_MOST = 120, 430
_LARGE_SHARE = 0.15  # of the batches


class Pictures:
    """Endless training pictures out of scenes, and the faces that the teacher found in them."""

    def __init__(self, scenes: Sequence[Scene], boxes: Sequence[np.ndarray], seed: int) -> None:
        images = [Image.fromarray(scene.rgb_HWC) for scene in scenes]
        # PIL does not smooth before it samples, so every scene is kept at a half, a quarter and an eighth too
        self.images = [[image, *(image.reduce(step) for step in (2, 4, 8))] for image in images]
        self.grounds = [np.asarray(image.resize((LARGE_SIDE, LARGE_SIDE))) for image in images]
        self.boxes = list(boxes)
        self.random = np.random.default_rng(seed)
        # a picture shows new people, a frame the person of the frames before
        weight = [{"images": 8.0, "videos": 1.0}.get(scene.name.split("/")[0], 3.0) for scene in scenes]
        self.share = np.array(weight) / np.sum(weight)

    def batch(self, count: int) -> Tensor:
        """float32 RGB, whole numbers 0-255: (count, 3, SIDE, SIDE), or a quarter as many of LARGE_SIDE."""
        large = self.random.random() < _LARGE_SHARE
        crops = np.stack(
            [self._large() for _ in range(max(1, count // 4))] if large else [self._small() for _ in range(count)]
        )
        tensors = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
        return (disturb(tensors, self.random) * 255).round()

    def _large(self) -> np.ndarray:
        return self._crop(LARGE_SIDE, LARGE_SIDE, _LARGE_LEAST, _LARGE_MOST)

    def _small(self) -> np.ndarray:
        picture = self._crop(SIDE, SIDE)
        while self.random.random() < 0.3:  # a part of another scene, with its faces
            h, w = (int(side) for side in self.random.integers(SIDE // 4, SIDE * 3 // 4, 2))
            top, left = int(self.random.integers(0, SIDE - h)), int(self.random.integers(0, SIDE - w))
            picture[top : top + h, left : left + w] = self._crop(w, h)
        return picture

    def _crop(self, width: int, height: int, least: float = _LEAST, most: float = _MOST) -> np.ndarray:
        number = int(self.random.choice(len(self.images), p=self.share))
        full, boxes = self.images[number][0], self.boxes[number]
        if len(boxes) and self.random.random() < 0.75:
            left, top, right, bottom = boxes[self.random.integers(len(boxes))]
            most = min(most, 0.95 * min(width, height))
            side = np.exp(self.random.uniform(np.log(least), np.log(most)))
            scale = max(right - left, bottom - top) / side  # px of the scene per px of the crop
            x = (left + right) / 2 + scale * self.random.uniform(-0.5, 0.5) * (width - side)
            y = (top + bottom) / 2 + scale * self.random.uniform(-0.5, 0.5) * (height - side)
        else:
            scale = np.exp(self.random.uniform(np.log(0.5), np.log(max(2, max(full.size) / SIDE))))
            x, y = self.random.uniform(0, full.width), self.random.uniform(0, full.height)
        level = int(np.clip(np.log2(scale / 1.2), 0, 3))
        angle, aspect = self.random.normal(0, 0.15), np.exp(self.random.normal(0, 0.06))
        mirror = -1 if self.random.random() < 0.5 else 1
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        turn = np.array([[cos * mirror * aspect, -sin / aspect], [sin * mirror * aspect, cos / aspect]])
        shift = np.array([x, y]) - turn @ [width / 2, height / 2]
        affine = tuple((np.column_stack([turn, shift]) / 2**level).ravel())
        crop = self.images[number][level].transform(
            (width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
        )
        picture = np.array(crop)
        # another scene lies behind the edge of this one
        at_x, at_y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        source = np.stack([at_x, at_y], -1) @ turn.T + shift
        outside = ((source < 0) | (source >= full.size)).any(-1)
        if outside.any() and self.random.random() < 0.9:
            ground = self.grounds[self.random.integers(len(self.grounds))][:height, :width]
            picture[outside] = ground[outside]
        return picture


def block_names(net: nn.Module) -> list[str]:
    """The parts that learn alone: every convolution with its norm, and the convolutions of the heads."""
    names = []
    for name, module in net.named_modules():
        leaf = isinstance(module, nn.Sequential) and all(not isinstance(child, nn.Sequential) for child in module)
        if leaf or (isinstance(module, nn.Conv2d) and "_convs" in name):
            names.append(name)
    return names


def record_blocks(net: nn.Module, names: Sequence[str]) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Record input and output of parts of a network at each forward pass; the caller clears the lists."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}

    def keeper(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _, inputs, output: seen[name].append((inputs[0], output))

    for name in names:
        net.get_submodule(name).register_forward_hook(keeper(name))
    return seen


def block_loss(student: nn.Module, seen: dict[str, list[tuple[Tensor, Tensor]]]) -> Tensor:
    """Mean over the blocks of the squared error in units of the teacher's variance per channel."""
    losses = []
    for name, pairs in seen.items():
        block = student.get_submodule(name)
        for given, wanted in pairs:
            spread_C = wanted.var((0, 2, 3), keepdim=True) + 1e-3 * wanted.var() + 1e-8
            losses.append(((block(given) - wanted).square() / spread_C).mean())
    return torch.stack(losses).mean()


def output_loss(student: RetinaFace, teacher: RetinaFace, frames_BCHW: Tensor) -> Tensor:
    """Distance of the dense outputs: class probabilities, boxes and points where the teacher sees a face."""
    raw_s, raw_t = _raw(student, frames_BCHW), None
    with torch.no_grad():
        raw_t = _raw(teacher, frames_BCHW)
    (box_s, logit_s, point_s), (box_t, logit_t, point_t) = raw_s, raw_t
    margin_s, margin_t = (logits[..., 1] - logits[..., 0] for logits in (logit_s, logit_t))
    face_BA = margin_t.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(margin_s, face_BA, reduction="none")
    floor = F.binary_cross_entropy_with_logits(margin_t, face_BA, reduction="none")
    near_BA = (face_BA > 0.02).float()
    weight = near_BA.sum().clamp_min(1)
    classes = (entropy - floor).sum() / weight + 0.02 * (
        (margin_s - margin_t).clamp(-8, 8).square() * near_BA
    ).sum() / weight
    negatives = 0.002 * (margin_s.clamp(-10) - margin_t.clamp(-10)).square().mean()
    boxes = ((box_s - box_t).abs().mean(2) * near_BA * face_BA).sum() / weight
    points = ((point_s - point_t).abs().mean(2) * near_BA * face_BA).sum() / weight
    return classes + negatives + boxes + points


def _raw(net: RetinaFace, frames_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    levels = net.fpn(*net.body(net.normalize(frames_BCHW)))
    features = [ssh(level) for ssh, level in zip((net.ssh1, net.ssh2, net.ssh3), levels, strict=True)]
    return net.BboxHead(features), net.ClassHead(features), net.LandmarkHead(features)


def train_detector(
    student: RetinaFace,
    teacher: RetinaFace,
    pictures: Pictures,
    seconds: tuple[float, float],
    batch: int,
    save: Callable[[], None],
    log: Callable[[str], None],
    block_rate: float = 1e-2,
) -> None:
    """Both phases, each for a given time.

    Args:
        student: random weights, changed in place; in eval mode at the end.
        teacher: eval mode.
        pictures: where the training pictures come from.
        seconds: CPU time of the blocks alone, and of all together; wall time would count pauses.
        batch: pictures per step.
        save: called now and then.
        log: called with a line of text now and then.
        block_rate: the highest learning rate of the first phase.
    """
    student, teacher = (net.to(memory_format=torch.channels_last) for net in (student, teacher))
    seen = record_blocks(teacher, block_names(teacher))
    student.train()
    batches = ahead(lambda: pictures.batch(batch))

    def of_blocks() -> Tensor:
        for pairs in seen.values():
            pairs.clear()
        with torch.no_grad():
            _raw(teacher, next(batches))
        return block_loss(student, seen)

    def of_outputs() -> Tensor:
        for pairs in seen.values():
            pairs.clear()
        return output_loss(student, teacher, next(batches))

    descend("blocks", student.parameters(), block_rate, max(seconds[0], 1), of_blocks, log, save)
    save()
    student.eval()  # the norms keep what they have seen: what is trained now is what will run
    descend("together", student.parameters(), 1e-3, max(seconds[1], 1), of_outputs, log, save, most_norm=5.0)
    save()
