"""Training of `TinyIdentity`: the embedding of an aligned face.

A few dozen people are too few to learn what tells people apart, so the network learns the teacher's feature maps, where
every position is an example, and not only its last vector. Faces are blended (whole, and part by part), so that there
are more of them than people; the last layer also sees blends of the maps.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.models.tiny import PART_WIDTH, TinyIdentity
from actors.ops.crops import align_faces
from jobs.training.augment import ahead, disturb
from jobs.training.faces import Faces
from jobs.training.schedule import annealed
from jobs.training.traits import scene_weights

#: outputs of the teacher's graph: the last of each size, and the 7x7 map of 64 channels that its last layer reads
LEVELS = {"fine": ("v33", 128), "middle": ("v74", 256), "coarse": ("v91", 256), "parts": ("v96", PART_WIDTH)}


@dataclass(frozen=True)
class Examples:
    """Aligned faces and the teacher's maps of them, in float16 where not said otherwise.

    Attributes:
        crops_NCHW: uint8 RGB, 112 pixels.
        maps: name of LEVELS -> (N, C, H, W).
    """

    crops_NCHW: Tensor
    maps: dict[str, Tensor]


def tap_identity(teacher: nn.Module) -> None:
    """Make the teacher (a GraphNet) give the maps of LEVELS beside its embedding."""
    outputs = teacher.prog["outputs"]  # type: ignore[index]
    outputs += [{"name": name, "var": var} for name, (var, _) in LEVELS.items()]  # type: ignore[operator]


def last_layer(teacher: nn.Module, parts_NCHW: Tensor) -> Tensor:
    """The teacher's embedding of given 7x7 maps."""
    return F.linear(parts_NCHW.flatten(1), teacher.t_fc_w, teacher.t_fc_b)  # type: ignore[arg-type]


def draw_aligned(faces: Faces, rows: np.ndarray, random: np.random.Generator) -> Tensor:
    """Aligned crops (N, 3, 112, 112) float32 of some faces, points moved a little, half of them mirrored."""
    points = faces.points_N52[rows]
    eyes_N11 = (points[:, 1] - points[:, 0]).norm(dim=1)[:, None, None]
    noise = torch.from_numpy(random.normal(0, 0.035, points.shape).astype(np.float32))
    crops_NCHW = align_faces(faces.crops_NCHW[rows], torch.arange(len(rows)), points + noise * eyes_N11)
    mirrored = torch.from_numpy(random.random((len(rows), 1, 1, 1)) < 0.5)
    return torch.where(mirrored, crops_NCHW.flip(3), crops_NCHW)


def blend(crops_NCHW: Tensor, others_NCHW: Tensor, random: np.random.Generator) -> Tensor:
    """Faces out of two: a mean of both, or one face on one side of a soft line and the other on the other side."""
    num, size = len(crops_NCHW), crops_NCHW.shape[-1]
    steps = torch.linspace(-1, 1, size)
    angle = torch.from_numpy(random.uniform(0, 2 * np.pi, (num, 1, 1)).astype(np.float32))
    place = torch.from_numpy(random.uniform(-0.4, 0.4, (num, 1, 1)).astype(np.float32))
    side = (angle.cos() * steps + angle.sin() * steps[:, None] - place) * 6
    even = torch.from_numpy(random.uniform(0.25, 0.75, (num, 1, 1)).astype(np.float32)).expand_as(side)
    by_part = torch.from_numpy(random.random((num, 1, 1)) < 0.5)
    share = torch.where(by_part, side.sigmoid(), even)[:, None]
    return crops_NCHW * share + others_NCHW * (1 - share)


@torch.inference_mode()
def make_examples(faces: Faces, teacher: nn.Module, count: int, seed: int, batch: int = 16) -> Examples:
    """Draw, blend and disturb faces that are not kept out, and ask the teacher.

    Args:
        faces: where from.
        teacher: after `tap_identity`.
        count: how many.
        seed: of chance.
        batch: faces per call.
    """
    random = np.random.default_rng(seed)
    rows = np.flatnonzero(~faces.held)
    share = scene_weights([faces.names[row] for row in rows], video=6)
    crops: list[Tensor] = []
    maps: dict[str, list[Tensor]] = {name: [] for name in LEVELS}
    for _ in range(0, count, batch):
        first, second = (draw_aligned(faces, random.choice(rows, batch, p=share), random) for _ in range(2))
        mixed = torch.from_numpy(random.random((batch, 1, 1, 1)) < 0.6)
        pictures = disturb(torch.where(mixed, blend(first, second, random), first), random, strength=0.6)
        crops.append((pictures * 255).round().byte())
        said = teacher((crops[-1].float() - 127.5) / 127.5)
        for name, parts in maps.items():
            parts.append(said[name].half())
    return Examples(torch.cat(crops), {name: torch.cat(parts) for name, parts in maps.items()})


def train_identity(
    net: TinyIdentity,
    examples: Examples,
    faces: Faces,
    teacher: nn.Module,
    seconds: float,
    batch: int,
    save: Callable[[], None],
    log: Callable[[str], None],
    rate: float = 4e-3,
    seed: int = 0,
) -> None:
    """Train for a given CPU time; the network is in eval mode at the end.

    Args:
        net: changed in place.
        examples: of `make_examples`.
        faces: those that are not kept out are centered at the end.
        teacher: for its last layer.
        seconds: how long, in CPU time.
        batch: examples per step.
        save: called now and then.
        log: called with a line of text now and then.
        rate: the highest learning rate.
        seed: of chance.
    """
    random = np.random.default_rng(seed)
    # 1x1 convolutions that compare maps of different widths; not part of the network
    widths = {"fine": 48, "middle": 96, "coarse": 160}
    adapters = nn.ModuleDict({name: nn.Conv2d(width, LEVELS[name][1], 1) for name, width in widths.items()})
    spread = {name: maps[:256].float().var((0, 2, 3), keepdim=True) + 1e-4 for name, maps in examples.maps.items()}
    net.to(memory_format=torch.channels_last).train()
    parameters = [*net.parameters(), *adapters.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-3)

    def draw() -> tuple[np.ndarray, Tensor]:
        rows = random.integers(0, len(examples.crops_NCHW), batch)
        return rows, disturb(examples.crops_NCHW[rows].float() / 255, random, strength=0.3)

    begin = time.process_time()
    for step, (rows, crops_NCHW) in enumerate(ahead(draw)):
        done = (time.process_time() - begin) / seconds
        if done >= 1:
            break
        optimizer.param_groups[0]["lr"] = annealed(rate, done, step)
        levels = dict(zip(LEVELS, net.levels(crops_NCHW.contiguous(memory_format=torch.channels_last)), strict=True))
        wanted = {name: maps[rows].float() for name, maps in examples.maps.items()}
        losses = {
            name: ((adapters[name](level) if name in widths else level) - wanted[name])
            .square()
            .div(spread[name])
            .mean()
            for name, level in levels.items()
        }
        embedding_ND = last_layer(teacher, wanted["parts"])
        losses["cosine"] = (1 - F.cosine_similarity(net.embed(levels["parts"].flatten(1)), embedding_ND)).mean()
        losses["last"] = _last_layer_loss(net, teacher, wanted["parts"])
        weights = {"fine": 0.3, "middle": 0.5, "coarse": 0.7, "parts": 1.0, "cosine": 3.0, "last": 2.0}
        optimizer.zero_grad()
        torch.stack([weights[name] * loss for name, loss in losses.items()]).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        if step % 25 == 0:
            log(f"identity {step} {done:.2f} " + " ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items()))
        if step % 100 == 99:
            save()
    net.eval()
    center(net, faces)
    save()


@torch.inference_mode()
def center(net: TinyIdentity, faces: Faces) -> None:
    """Shift the embeddings so that their mean over the training faces is 0.

    The network draws all faces together, and what they share would make strangers look alike.
    """
    rows = np.flatnonzero(~faces.held)
    share = torch.from_numpy(scene_weights([faces.names[row] for row in rows], video=3)).float()
    crops_NCHW = align_faces(faces.crops_NCHW[rows], torch.arange(len(rows)), faces.points_N52[rows])
    said_ND = torch.cat([net(part) for part in crops_NCHW.split(32)])
    net.embed.bias.sub_(share @ said_ND)  # type: ignore[union-attr]


def _last_layer_loss(net: TinyIdentity, teacher: nn.Module, parts_NCHW: Tensor) -> Tensor:
    """The last layer on the teacher's own maps, blended position by position with those of another face."""
    share = torch.rand(len(parts_NCHW) * 4, 1, 7, 7)
    blended = parts_NCHW.repeat(4, 1, 1, 1)
    blended = blended * share + blended[torch.randperm(len(blended))] * (1 - share)
    wanted_ND = last_layer(teacher, blended)
    return (net.embed(blended.flatten(1)) - wanted_ND).square().mean() / wanted_ND.var()
