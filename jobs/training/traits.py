"""Training of `TinyTraits`: landmarks, pose and emotions of a crop.

The teachers annotated each cut-out once. Every step rotates, scales, shifts, mirrors and distorts it again, and
transforms the teachers' annotations with it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.models.tiny import TinyTraits
from actors.models.tiny_gaze import turn
from jobs.training import teachers as teach
from jobs.training.augment import ahead, disturb
from jobs.training.faces import Faces
from jobs.training.schedule import annealed

EXPAND = 1.2  # how far `crops112` reaches beyond the box
SIZE = 112


@dataclass(frozen=True)
class Batch:
    """Crops and what they show."""

    crops_NCHW: Tensor
    landmarks_NK2: Tensor  # fractions of the crop
    pose_N3: Tensor
    gaze_N3: Tensor
    emotions_N7: Tensor  # logits


def draw_batch(faces: Faces, rows: np.ndarray, random: np.random.Generator, strength: float = 1.0) -> Batch:
    """Crops of some faces, each seen in a new way.

    Args:
        faces: where from.
        rows: which; may repeat.
        random: source of chance.
        strength: 0 gives the plain crop as the pipeline cuts it.
    """
    num = len(rows)

    def draw(scale: float) -> Tensor:
        return torch.from_numpy(random.normal(0, scale * strength, num).astype(np.float32))

    boxes_N4 = faces.boxes_N4[rows]
    size_N2 = (boxes_N4[:, 2:] - boxes_N4[:, :2]) * EXPAND
    center_N2 = (boxes_N4[:, 2:] + boxes_N4[:, :2]) / 2
    # as far off as the detector's boxes are on small faces
    size_N2 = size_N2 * torch.exp(torch.stack([draw(0.1), draw(0.1)], 1) + draw(0.08)[:, None])
    center_N2 = center_N2 + size_N2 * torch.stack([draw(0.07), draw(0.07)], 1)
    angle_N = draw(0.25)
    mirror_N = torch.from_numpy(np.where(random.random(num) < 0.5 * min(strength, 1), -1.0, 1.0).astype(np.float32))
    # from target pixels to pixels of the cut-out: stretch, mirror, turn
    cos, sin = angle_N.cos(), angle_N.sin()
    turn_N22 = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    stretch_N22 = torch.diag_embed(size_N2 / SIZE * torch.stack([mirror_N, torch.ones(num)], 1))
    matrix_N22 = turn_N22 @ stretch_N22
    shift_N2 = center_N2 - (matrix_N22 @ torch.full((2,), SIZE / 2)).squeeze(-1)
    crops_NCHW = teach.sample(
        faces.crops_NCHW[rows].float() / 255,
        torch.cat([matrix_N22, shift_N2[..., None]], 2),
        SIZE,
        *faces.crops_NCHW.shape[-2:],
    )
    points_NK2 = (faces.landmarks_NK2[rows] - shift_N2[:, None]) @ torch.linalg.inv(matrix_N22).mT / SIZE
    flipped = mirror_N < 0
    points_NK2 = torch.where(flipped[:, None, None], points_NK2[:, teach.MIRROR_68], points_NK2)
    # the crop is turned by -angle before the mirror; clockwise in the picture is a tilt to the subject's left
    pitch, roll, yaw = faces.pose_N3[rows].unbind(1)
    roll = (roll + angle_N) * mirror_N
    gaze_N3 = turn(faces.gaze_N3[rows], -angle_N) * torch.stack([mirror_N, torch.ones(num), torch.ones(num)], 1)
    if strength:
        crops_NCHW = disturb(crops_NCHW, random, strength)
    return Batch(
        crops_NCHW, points_NK2, torch.stack([pitch, roll, yaw * mirror_N], 1), gaze_N3, faces.emotions_N7[rows]
    )


def traits_loss(said: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """Loss of each trait, weighted so that they can be added."""
    points_NK2 = said["landmarks"].unflatten(1, (68, 2))
    error_NK = (points_NK2 - batch.landmarks_NK2).norm(dim=2)
    teacher_N7 = (batch.emotions_N7 / 1.5).log_softmax(1)
    student_N7 = (said["emotions"] / 1.5).log_softmax(1)
    return {
        "landmarks": 25 * F.smooth_l1_loss(error_NK, torch.zeros_like(error_NK), beta=0.01),
        "pose": 4 * F.smooth_l1_loss(said["pose"], batch.pose_N3, beta=0.05),
        "emotions": 0.5 * F.kl_div(student_N7, teacher_N7, log_target=True, reduction="batchmean"),
    }


def train_traits(
    net: TinyTraits,
    faces: Faces,
    seconds: float,
    batch: int,
    save: Callable[[], None],
    log: Callable[[str], None],
    rate: float = 3e-3,
    seed: int = 0,
) -> None:
    """Train for a given CPU time; the network is in eval mode at the end.

    Args:
        net: changed in place.
        faces: those that are kept out are not used.
        seconds: how long, in CPU time.
        batch: faces per step.
        save: called now and then.
        log: called with a line of text now and then.
        rate: the highest learning rate.
        seed: of the random changes.
    """
    random = np.random.default_rng(seed)
    rows = np.flatnonzero(~faces.held)
    share = scene_weights([faces.names[row] for row in rows])
    net.to(memory_format=torch.channels_last).train()
    batches = ahead(lambda: draw_batch(faces, random.choice(rows, batch, p=share), random))
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-3)
    step, begin = 0, time.process_time()
    while (done := (time.process_time() - begin) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = annealed(rate, done, step)
        drawn = next(batches)
        losses = traits_loss(net(drawn.crops_NCHW.contiguous(memory_format=torch.channels_last)), drawn)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        if step % 25 == 0:
            log(f"traits {step} {done:.2f} " + " ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items()))
        if step % 200 == 199:
            save()
        step += 1
    net.eval()
    save()


def scene_weights(names: list[str], video: float = 6.0) -> np.ndarray:
    """How often a face is drawn: pictures show many people, a video one; a video's faces count as `video` pictures."""
    of_video: dict[str, int] = {}
    for name in names:
        of_video[name.split("#")[0]] = of_video.get(name.split("#")[0], 0) + 1
    weight = np.array([video / of_video[name.split("#")[0]] if "#" in name else 1.0 for name in names])
    return weight / weight.sum()
