"""Training of `TinyGaze`: the line of sight out of both eyes.

First every layer learns alone, as the detector's do: from the teacher's feature maps at its input to those at its
output. Then all learn together, on crops as the pipeline cuts them and with the landmarks and the pose that
`TinyTraits` gives, what the teacher said of the undistorted face.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.models.tiny import TinyTraits
from actors.models.tiny_gaze import TinyGaze, centered, cut_eyes, head_angles
from jobs.training.faces import Faces
from jobs.training.schedule import descend
from jobs.training.teachers import ask_gaze
from jobs.training.traits import draw_batch, scene_weights

#: layer of TinyGaze -> the teacher's variable that it learns to give, in the order of the data's flow
LAYERS = {
    **{f"left.{i}": name for i, name in enumerate(("v12", "v16", "v25", "v29"))},
    **{f"right.{i}": name for i, name in enumerate(("v42", "v46", "v55", "v59"))},
    **{f"both.{i}": name for i, name in enumerate(("v69", "v73", "v82", "v86", "v95", "v99"))},
    **{f"head.{i}": name for i, name in enumerate(("v110", "v115", "v122"))},
}
FIRST_LATE = "both.4"
GATHERED = 1024  # pairs of eyes for the last layers
LATE = list(LAYERS)[list(LAYERS).index(FIRST_LATE) :]


def tap_gaze(teacher: nn.Module) -> None:
    """Make the teacher (a GraphNet) give the variables of LAYERS beside the gaze."""
    outputs = teacher.prog["outputs"]  # type: ignore[index]
    outputs += [{"name": var, "var": var} for var in LAYERS.values()]  # type: ignore[operator]


def draw_eyes(faces: Faces, rows: np.ndarray, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of pictures and poses for the layers alone: mostly eyes, some other parts of a face, all disturbed.

    Returns:
        left in the picture, right, each (N, 3, 60, 60) in [0, 1], and pose (N, 3).
    """
    drawn = draw_batch(faces, rows, random)
    points_NK2 = drawn.landmarks_NK2.clone()
    noise = torch.from_numpy(random.normal(0, 0.01, points_NK2.shape).astype(np.float32))
    elsewhere = torch.from_numpy(random.random((len(rows), 1, 1)) < 0.2)
    shift = torch.from_numpy(random.uniform(-0.2, 0.3, (len(rows), 1, 2)).astype(np.float32))
    left_NCHW, right_NCHW, _ = cut_eyes(drawn.crops_NCHW, points_NK2 + noise + shift * elsewhere)
    spread = torch.from_numpy(random.normal(0, 0.1, (len(rows), 3)).astype(np.float32))
    return left_NCHW, right_NCHW, drawn.pose_N3 + spread


def layer_loss(net: TinyGaze, teacher: nn.Module, eyes: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Mean over the layers of `distance` to the teacher's maps, each layer given the teacher's map before it."""
    left_NCHW, right_NCHW, pose_N3 = eyes
    said = ask_gaze(teacher, left_NCHW, right_NCHW, pose_N3)
    # the teacher's left eye is the subject's: right in the picture
    given = {
        "left": centered(right_NCHW),
        "right": centered(left_NCHW),
        "both": torch.cat([said["v29"], said["v59"]], 1),
    }
    given["head"] = torch.cat([said["v99"].flatten(1), head_angles(pose_N3)], 1)
    losses = []
    for name, var in LAYERS.items():
        part = name.partition(".")[0]
        wanted = said[var].flatten(1) if part == "head" else said[var]
        losses.append(distance(net.get_submodule(name)(given[part]), wanted))
        given[part] = wanted
    return torch.stack(losses).mean()


@torch.no_grad()
def gather(
    net: TinyGaze, teacher: nn.Module, draw: Callable[[], tuple[Tensor, Tensor, Tensor]], draws: int
) -> dict[str, Tensor]:
    """For many pairs of eyes: our map before the last layers, the pose, and what the teacher makes of them."""
    parts: dict[str, list[Tensor]] = {name: [] for name in ("map", "pose", *LATE)}
    for _ in range(draws):
        left_NCHW, right_NCHW, pose_N3 = draw()
        said = ask_gaze(teacher, left_NCHW, right_NCHW, pose_N3)
        both = torch.cat([net.left(centered(right_NCHW)), net.right(centered(left_NCHW))], 1)
        for name, value in {"map": net.both[:4](both), "pose": head_angles(pose_N3)}.items():
            parts[name].append(value)
        for name in LATE:
            parts[name].append(said[LAYERS[name]])
    return {name: torch.cat(values) for name, values in parts.items()}


def late_loss(net: TinyGaze, kept: dict[str, Tensor], rows: Tensor) -> Tensor:
    """The last layers in a row, each one's answer beside the teacher's; they see few examples per face, so many."""
    x, losses = kept["map"][rows], []
    for name in LATE:
        if name == "head.0":
            x = torch.cat([x.flatten(1), kept["pose"][rows]], 1)
        x = net.get_submodule(name)(x)
        wanted = kept[name][rows]
        losses.append(distance(x, wanted.flatten(1) if name.startswith("head") else wanted))
    return torch.stack(losses).sum()


def distance(said: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error in units of the variance of each channel and of all: a channel that is dead counts little."""
    axes = tuple(axis for axis in range(wanted.ndim) if axis != 1)
    spread_C = wanted.var(axes, keepdim=True) + 0.3 * wanted.var() + 1e-8
    return ((said - wanted).square() / spread_C).mean()


def gaze_loss(net: TinyGaze, traits: TinyTraits, faces: Faces, rows: np.ndarray, random: np.random.Generator) -> Tensor:
    """Mean angle in radians, smooth at 0, to what the teacher said; landmarks and pose come from `traits`."""
    drawn = draw_batch(faces, rows, random, strength=0.7)
    with torch.no_grad():
        said = traits(drawn.crops_NCHW)
    gaze_N3 = net.look(drawn.crops_NCHW, said["landmarks"].unflatten(1, (68, 2)), said["pose"])
    return F.smooth_l1_loss(gaze_N3, drawn.gaze_N3, beta=0.1, reduction="sum") / len(rows)


def train_gaze(
    net: TinyGaze,
    teacher: nn.Module,
    traits: TinyTraits,
    faces: Faces,
    seconds: tuple[float, float, float],
    batch: int,
    save: Callable[[], None],
    log: Callable[[str], None],
    seed: int = 0,
) -> None:
    """Three phases, each for a given CPU time; the network is in eval mode at the end.

    Args:
        net: changed in place.
        teacher: after `tap_gaze`.
        traits: trained, in eval mode.
        faces: those that are kept out are not used.
        seconds: CPU time of the layers alone, of the last layers, and of all together.
        batch: faces per step.
        save: called now and then.
        log: called with a line of text now and then.
        seed: of chance.
    """
    random = np.random.default_rng(seed)
    rows = np.flatnonzero(~faces.held)
    share = scene_weights([faces.names[row] for row in rows])

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        return draw_eyes(faces, random.choice(rows, batch, p=share), random)

    def fit(name: str, rate: float, most: float, loss_of: Callable[[], Tensor]) -> None:
        descend(name, net.parameters(), rate, max(most, 0.1), loss_of, log, most_norm=5.0)
        save()

    net.train()
    fit("layers", 5e-3, seconds[0], lambda: layer_loss(net, teacher, draw()))
    net.eval()  # the norms keep what they have seen: what is trained from here on is what will run
    kept = gather(net, teacher, draw, GATHERED // batch)
    fit("last", 1e-3, seconds[1], lambda: late_loss(net, kept, torch.from_numpy(random.integers(0, GATHERED, 128))))
    fit(
        "gaze",
        2e-4,
        seconds[2],
        lambda: gaze_loss(net, traits, faces, random.choice(rows, batch, p=share), random),
    )
