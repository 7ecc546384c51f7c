"""Head pose from 68 landmarks, by a small multi-layer perceptron.

Formulas: docs/reference/pyfeat.md section 9. The module names are those of the published weights.

Shapes: N faces, K landmarks (68).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from actors.errors import MissingWeightsError, WeightsError
from actors.models.constants import LANDMARKS, constant
from actors.weights.state_dict import load_strict, read_state_dict

_LEFT_EYE_CORNER, _RIGHT_EYE_CORNER = 36, 45  # the outer ones, left and right in the picture
_LEAST_EYE_DISTANCE_PX = 1e-6
_OUTPUTS = 6


class PoseMLP(nn.Module):
    """Linear, LayerNorm, GELU, and so on; the output is scaled back by the mean and deviation of the training poses."""

    def __init__(self, hidden: Sequence[int], dropout: float, mean: Sequence[float], std: Sequence[float]) -> None:
        """Build the network with random weights.

        Args:
            hidden: widths of the hidden layers.
            dropout: probability, for training only.
            mean: of the six outputs over the training poses.
            std: their standard deviations.
        """
        super().__init__()
        layers: list[nn.Module] = []
        width = 2 * LANDMARKS
        for next_width in hidden:
            layers += [nn.Linear(width, next_width), nn.LayerNorm(next_width), nn.GELU(), nn.Dropout(dropout)]
            width = next_width
        self.net = nn.Sequential(*layers, nn.Linear(width, _OUTPUTS))
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))

    def raw(self, landmarks_NK2: Tensor) -> Tensor:
        """Rotations about the x, y and z axis (rad) and x, y, z as the network gives them, before any sign change.

        Args:
            landmarks_NK2: float32 px, (N, 68, 2), dlib order. Place and size of the face are divided out.

        Returns:
            (N, 6) float32.
        """
        eyes_N2 = landmarks_NK2[:, _LEFT_EYE_CORNER] - landmarks_NK2[:, _RIGHT_EYE_CORNER]
        distance_N11 = eyes_N2.norm(dim=1).clamp_min(_LEAST_EYE_DISTANCE_PX)[:, None, None]
        centered_NK2 = (landmarks_NK2 - landmarks_NK2.mean(1, keepdim=True)) / distance_N11
        features_N136 = centered_NK2.transpose(1, 2).flatten(1)  # all x, then all y
        outputs_N6 = self.net(features_N136.to(self.net[0].weight.dtype)).float()
        return outputs_N6 * constant(self.std, outputs_N6.device) + constant(self.mean, outputs_N6.device)

    def forward(self, landmarks_NK2: Tensor) -> Tensor:
        """Head pose in the signs of the tables.

        Args:
            landmarks_NK2: float32 px, (N, 68, 2), dlib order.

        Returns:
            (N, 6) float32: pitch (+ up), roll (+ tilt to the subject's right), yaw (+ to the subject's right) in
            radians; x, y, z in the units of the training poses, without information on place or size.
        """
        about_x, about_y, about_z, x, y, z = self.raw(landmarks_NK2).unbind(1)
        return torch.stack([-about_x, -about_z, about_y, x, y, z], dim=1)


def build_pose_mlp(files: Mapping[str, Path]) -> PoseMLP:
    """The pose network, in eval mode, with its weights.

    Args:
        files: `weights` (safetensors), and `config` (json): `architecture` with `hidden`, `dropout` and
            `output_normalization` with `mean` and `std`.

    Raises:
        WeightsError: a file cannot be read, or the weights do not fit.
    """
    path = Path(files["config"])
    if not path.is_file():
        raise MissingWeightsError(f"no configuration of pose_mlp at {path}")
    try:
        architecture = json.loads(path.read_text())["architecture"]
        scale = architecture["output_normalization"]
        net = PoseMLP(architecture["hidden"], architecture["dropout"], scale["mean"], scale["std"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a configuration of pose_mlp: {type(error).__name__}: {error}") from error
    load_strict(net, read_state_dict(files["weights"]), "pose_mlp")
    return net.eval().requires_grad_(False)
