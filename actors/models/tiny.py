"""The networks of the bundle `tiny`, trained by this project (jobs/training/__main__.py, docs/tiny.md).

Faces come from RetinaFace with MobileNetV1-0.25 (`actors/models/retinaface.py`). One network, `TinyTraits`, gives
landmarks, pose and emotions of a crop; `TinyIdentity` gives the embedding of an aligned crop. Both are built of
inverted bottlenecks as MobileFaceNet (Chen et al. 2018), narrower, and with plain ReLU, which is cheaper on a CPU.
`TinyGaze` (actors/models/tiny_gaze.py) reads the eyes at the landmarks of `TinyTraits`.

Shapes: N faces, C H W channels, rows, columns, D width of the embedding.
"""

import functools
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.models.retinaface import RetinaFace, build_retinaface_mnet025
from actors.models.tiny_gaze import TinyGaze
from actors.weights.state_dict import load_strict, read_state_dict

#: chosen on held-out pictures: 98 % of detections are faces, and none are in frames without one
SCORE_THRESHOLD = 0.4
#: frames are halved before detection: a quarter of the time, and faces of 40 px are still found
REDUCE = 2
EMBEDDING_WIDTH = 512
PART_WIDTH = 64  # channels of each of the 7x7 parts of a face that the embedding reads
_last = threading.local()  # the call that a thread's `TinyTraits.remember` keeps


class TinyTraits(nn.Module):
    """Landmarks, pose and emotions of a 112-pixel crop, from one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            conv_unit(3, 16, stride=2),
            conv_unit(16, 32, stride=2),
            Bottleneck(32, 32, expanded=64),
            Bottleneck(32, 64, expanded=96, stride=2),
            *(Bottleneck(64, 64, expanded=128) for _ in range(4)),
            Bottleneck(64, 128, expanded=192, stride=2),
            *(Bottleneck(128, 128, expanded=256) for _ in range(2)),
            conv_unit(128, 256, kernel=1),
        )
        self.pool = conv_unit(256, 256, kernel=7, padding=0, groups=256, active=False)
        self.landmarks = nn.Linear(256, 136)
        self.pose = nn.Linear(256, 3)
        self.emotions = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 7))

    def remember(self, crops_NCHW: Tensor) -> dict[str, Tensor]:
        """`forward` with its last call cached per thread: the slots of one batch pass the same tensor.

        Args:
            crops_NCHW: as `forward`.

        Returns:
            As `forward`; of the cached call if `crops_NCHW` is the same object.
        """
        call = getattr(_last, "call", None)
        if call is None or call[0]() is not self or call[1]() is not crops_NCHW:
            call = _last.call = weakref.ref(self), weakref.ref(crops_NCHW), self(crops_NCHW)
        return call[2]

    def forward(self, crops_NCHW: Tensor) -> dict[str, Tensor]:
        """Landmarks, pose and emotions of crops.

        Args:
            crops_NCHW: float32 RGB [0, 1], (N, 3, 112, 112), cut as `crops112`.

        Returns:
            float32: landmarks (N, 136) in fractions of the crop; pose (N, 3): pitch, roll, yaw, rad; emotions (N, 7):
            logits in the order of schema.EMOTIONS.
        """
        inputs_NCHW = ((crops_NCHW - 0.5) / 0.25).to(self.pose.weight.dtype)
        features_ND = self.pool(self.trunk(inputs_NCHW)).flatten(1)
        return {
            "landmarks": self.landmarks(features_ND).float() * 0.1 + 0.5,
            "pose": self.pose(features_ND).float() * 0.3,
            "emotions": self.emotions(features_ND).float(),
        }


class TinyIdentity(nn.Module):
    """The embedding of a face aligned on five points."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            conv_unit(3, 24, stride=2), conv_unit(24, 48, stride=2), Bottleneck(48, 48, expanded=96)
        )
        self.middle = nn.Sequential(
            Bottleneck(48, 96, expanded=144, stride=2), *(Bottleneck(96, 96, expanded=192) for _ in range(3))
        )
        self.coarse = nn.Sequential(
            Bottleneck(96, 160, expanded=288, stride=2), *(Bottleneck(160, 160, expanded=320) for _ in range(2))
        )
        self.parts = nn.Sequential(conv_unit(160, 320, kernel=1), nn.Conv2d(320, PART_WIDTH, 1))
        self.embed = nn.Linear(PART_WIDTH * 7 * 7, EMBEDDING_WIDTH)

    def levels(self, crops_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Feature maps of 28, 14 and 7 pixels, and the parts of the face, for training.

        Args:
            crops_NCHW: as `forward`.

        Returns:
            (N, 48, 28, 28), (N, 96, 14, 14), (N, 160, 7, 7) and (N, 64, 7, 7), in the dtype of the weights.
        """
        fine = self.fine(((crops_NCHW - 0.5) / 0.5).to(self.embed.weight.dtype))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        return fine, middle, coarse, self.parts(coarse)

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """Embeddings, float32 (N, 512), not normalized.

        Args:
            crops_NCHW: float32 RGB [0, 1], (N, 3, 112, 112), cut as `aligned112`.
        """
        return self.embed(self.levels(crops_NCHW)[-1].flatten(1)).float()


class Trait(nn.Module):
    """One output of a `TinyTraits` that several slots share; the trunk runs once per batch of crops."""

    def __init__(self, net: TinyTraits, answer: Callable[[dict[str, Tensor]], Tensor]) -> None:
        """Wrap a network.

        Args:
            net: shared by the slots.
            answer: takes the network's outputs to this slot's.
        """
        super().__init__()
        self.net = net
        self.answer = answer

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """The slot's output for crops as `TinyTraits` takes them."""
        return self.answer(self.net.remember(crops_NCHW))


class GazeTrait(nn.Module):
    """The line of sight from the eyes at the landmarks of a `TinyTraits`, whose trunk runs once, as for `Trait`."""

    def __init__(self, traits: TinyTraits, net: TinyGaze) -> None:
        """Wrap two networks: `traits` gives landmarks and pose, `net` the line of sight."""
        super().__init__()
        self.traits = traits
        self.net = net

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """float32 (N, 3): pitch, yaw and angle to the camera axis in rad, for crops as `TinyTraits` takes them."""
        traits = self.traits.remember(crops_NCHW)
        return gaze_angles(self.net.look(crops_NCHW, traits["landmarks"].unflatten(1, (68, 2)), traits["pose"]))


class Bottleneck(nn.Module):
    """Widen by 1x1, filter by depth-wise 3x3, narrow by 1x1; adds its input if the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, expanded: int, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *conv_unit(in_channels, expanded, kernel=1),
            *conv_unit(expanded, expanded, stride=stride, groups=expanded),
            *conv_unit(expanded, out_channels, kernel=1, active=False),
        )
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """The block's feature maps."""
        return x + self.layers(x) if self.adds else self.layers(x)


def conv_unit(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    padding: int | None = None,
    active: bool = True,
) -> nn.Sequential:
    """Convolution, batch norm and, if active, a ReLU.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: side, px.
        stride: px.
        groups: of channels; as many as channels for a depth-wise convolution.
        padding: px; None: half the kernel, so that only the stride changes the size.
        active: end with a ReLU.
    """
    padding = kernel // 2 if padding is None else padding
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if active else nn.Sequential(*layers)


def build_tiny_face(files: Mapping[str, Path], score_threshold: float = SCORE_THRESHOLD) -> RetinaFace:
    """The face detector of `tiny`, in eval mode, with its weights.

    Args:
        files: `weights`.
        score_threshold: least score of a face, 0 to 1.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    net = build_retinaface_mnet025(files, score_threshold)
    net.reduce = REDUCE
    return net


def build_tiny_landmarks(files: Mapping[str, Path]) -> Trait:
    """Landmarks, float32 (N, 136) in fractions of the crop; `files` and errors as `build_tiny_face`."""
    return Trait(_traits(Path(files["weights"])), lambda traits: traits["landmarks"])


def build_tiny_pose(files: Mapping[str, Path]) -> Trait:
    """Pose, float32 (N, 6): pitch, roll, yaw in rad, NaN for the position; `files` and errors as `build_tiny_face`."""
    return Trait(_traits(Path(files["weights"])), lambda traits: F.pad(traits["pose"], (0, 3), value=torch.nan))


def build_tiny_emotions(files: Mapping[str, Path]) -> Trait:
    """Probabilities, float32 (N, 7) in the order of `schema.EMOTIONS`; `files` and errors as `build_tiny_face`."""
    return Trait(_traits(Path(files["weights"])), lambda traits: traits["emotions"].softmax(1))


def build_tiny_gaze(files: Mapping[str, Path]) -> GazeTrait:
    """Gaze, float32 (N, 3): pitch, yaw, angle to the camera axis, rad.

    Args:
        files: `weights`, and `traits`: those of `TinyTraits`.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    net = TinyGaze()
    load_strict(net, read_state_dict(files["weights"]), "tiny_gaze")
    return GazeTrait(_traits(Path(files["traits"])), net.eval().requires_grad_(False))


def build_tiny_identity(files: Mapping[str, Path]) -> TinyIdentity:
    """Embeddings, float32 (N, 512) of aligned crops; `files` and errors as `build_tiny_face`."""
    net = TinyIdentity()
    load_strict(net, read_state_dict(files["weights"]), "tiny_identity")
    return net.eval().requires_grad_(False)


def gaze_angles(vector_N3: Tensor) -> Tensor:
    """Pitch (+ up), yaw (+ to the subject's left) and the angle to the camera axis, in radians.

    Args:
        vector_N3: line of sight, any length: x to the picture's right, y up, z < 0 toward the camera.

    Returns:
        (N, 3), same dtype.
    """
    x, y, z = F.normalize(vector_N3, dim=1).unbind(1)
    return torch.stack([y.asin(), torch.atan2(x, -z), (-z).clamp(-1, 1).acos()], dim=1)


@functools.lru_cache(maxsize=4)
def _traits(path: Path) -> TinyTraits:
    """The network of a weight file; one per process, so that the slots share it."""
    net = TinyTraits()
    load_strict(net, read_state_dict(path), "tiny_traits")
    return net.eval().requires_grad_(False)
