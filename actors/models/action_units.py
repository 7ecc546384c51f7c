"""Action units, and emotions, by classical classifiers on HOG features: boosted trees or linear support vectors.

Formulas: docs/reference/pyfeat.md sections 5.4 to 5.7 and 6. A classifier reads the features of its region,
standardized and projected by a PCA, and the aligned landmarks. Standardizing and projecting are one affine map, which
is composed here in float64; a linear classifier behind it is affine too, so that all of those are one map from features
to scores.

Shapes: N faces.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from actors.errors import WeightsError
from actors.models.constants import LANDMARKS
from actors.models.trees import TreeEnsemble, Trees, read_trees
from actors.ops.hog import HOG_WIDTH, HogFeatures
from actors.weights.skops_files import BoostedClassifier, HogClassifiers, LinearClassifier, read_classifiers
from pipeline.schema import AU_NUMBERS

#: names in the file, in the order of schema.EMOTIONS
_FILE_EMOTIONS = ("anger", "disgust", "fear", "happ", "sad", "sur", "neutral")

REGIONS = ("upper", "lower", "full")
#: AU -> region, where it is not `full`
XGB_REGIONS = dict.fromkeys((1, 2, 7), "upper") | dict.fromkeys((11, 14, 17, 23, 24, 26), "lower")
SVM_REGIONS = dict.fromkeys((1, 4, 6), "upper") | dict.fromkeys((11, 12, 17), "lower")
_LANDMARKS = 2 * LANDMARKS  # x and y of each
_SETTING = threading.Lock()


class BoostedHog(nn.Module):
    """Probabilities of boosted trees, one set per action unit.

    On a CPU xgboost walks the trees, about four times as fast as tensors do; elsewhere they are tensors, so
    that nothing leaves the device. Both give the same probabilities (docs/parity_action_units.md).
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        weight: np.ndarray,
        bias: np.ndarray,
        widths: Sequence[int],
        members: Sequence[Trees],
        regions: Sequence[int],
    ) -> None:
        """Store the maps and the trees.

        Args:
            weight: (5408, P) of the affine maps of all regions side by side, P columns in all.
            bias: (P,) likewise.
            widths: columns of each region.
            members: the classifiers in the order of the outputs.
            regions: for each classifier, the index of the region that it reads.
        """
        super().__init__()
        starts = np.cumsum([0, *(width + _LANDMARKS for width in widths)])
        self.trees = TreeEnsemble(members, [int(starts[region]) for region in regions])
        self.boosters = [(trees.booster, trees.rounds, region) for trees, region in zip(members, regions, strict=True)]
        self.register_buffer("weight", torch.from_numpy(weight.astype(np.float32)), persistent=False)
        self.register_buffer("bias", torch.from_numpy(bias.astype(np.float32)), persistent=False)
        self.widths = list(widths)
        self._threads = 0

    def forward(self, faces: HogFeatures) -> Tensor:
        """Probability of each action unit.

        Args:
            faces: HOG features and aligned landmarks.

        Returns:
            (N, 20) float32, in the order of schema.AU_NUMBERS. NaN for a face whose features are NaN; xgboost would
            treat NaN as a missing value and return a number.
        """
        good_N1 = faces.features_N5408.isfinite().all(1, keepdim=True)
        projected = torch.addmm(self.bias, faces.features_N5408.float(), self.weight).split(self.widths, dim=1)
        landmarks = faces.landmarks_N136.float()
        inputs = [torch.cat([region, landmarks], dim=1) for region in projected]
        answers = self.trees(torch.cat(inputs, dim=1)) if self.weight.is_cuda else self._by_xgboost(inputs)
        return answers.where(good_N1, float("nan"))

    def _by_xgboost(self, inputs: Sequence[Tensor]) -> Tensor:
        if not len(inputs[0]):
            return inputs[0].new_empty(0, len(self.boosters))
        arrays = [x.contiguous().numpy() for x in inputs]
        answers = np.empty((len(arrays[0]), len(self.boosters)), np.float32)
        self._use_threads(torch.get_num_threads())
        for output, (booster, rounds, region) in enumerate(self.boosters):
            answers[:, output] = booster.inplace_predict(arrays[region], iteration_range=(0, rounds))
        return torch.from_numpy(answers)

    def _use_threads(self, threads: int) -> None:
        """Threads of each prediction; set once, since a booster must not change while another thread uses it."""
        with _SETTING:
            if self._threads != threads:
                for booster, _, _ in self.boosters:
                    booster.set_param({"nthread": threads})
                self._threads = threads

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Move to a device, but keep float32: thresholds decide on the last digits."""
        device = fn(torch.empty(0)).device
        return super()._apply(lambda tensor: tensor.to(device), recurse)


class LinearHog(nn.Module):
    """Labels of linear support vectors, one per output."""

    weight: Tensor
    bias: Tensor
    labels: Tensor

    def __init__(self, weight: np.ndarray, bias: np.ndarray, labels: np.ndarray) -> None:
        """Store the map and the labels.

        Args:
            weight: float64 (5544, outputs): from HOG features and landmarks to scores.
            bias: float64 (outputs,).
            labels: float64 (2, outputs): the label at a score up to 0, and above.
        """
        super().__init__()
        # float64, as a label turns over at 0; the product is narrow
        self.register_buffer("weight", torch.from_numpy(weight), persistent=False)
        self.register_buffer("bias", torch.from_numpy(bias), persistent=False)
        self.register_buffer("labels", torch.from_numpy(labels), persistent=False)

    def forward(self, faces: HogFeatures) -> Tensor:
        """Label of each output.

        Args:
            faces: HOG features and aligned landmarks.

        Returns:
            (N, outputs) float32: labels as the classifiers were trained with, 0 or 1; no probabilities. NaN for a face
            whose features are NaN.
        """
        x = torch.cat([faces.features_N5408, faces.landmarks_N136], dim=1).double()
        scores = torch.addmm(self.bias, x, self.weight)
        return torch.where(scores > 0, self.labels[1], self.labels[0]).float().where(~scores.isnan(), float("nan"))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Move to a device, but keep float64."""
        device = fn(torch.empty(0)).device
        return super()._apply(lambda tensor: tensor.to(device), recurse)


def build_xgb(files: Mapping[str, Path]) -> BoostedHog:
    """Action units by boosted trees.

    Args:
        files: `weights`: a skops file of the reference.

    Raises:
        WeightsError: it cannot be read, has an unexpected type, or lacks an action unit.
    """
    path = Path(files["weights"])
    held = read_classifiers(path)
    maps = {region: _affine(path, held, region) for region in REGIONS}
    widths = [maps[region][0].shape[1] for region in REGIONS]
    members, regions = [], []
    for au in AU_NUMBERS:
        region = XGB_REGIONS.get(au, "full")
        found = held.classifiers.get(f"AU{au}")
        if not isinstance(found, BoostedClassifier):
            raise WeightsError(f"{path}: no boosted classifier for AU{au}")
        members.append(read_trees(found.handle))
        regions.append(REGIONS.index(region))
        widest = max(int(feature.max()) for feature in members[-1].feature)
        if widest >= maps[region][0].shape[1] + _LANDMARKS:
            raise WeightsError(f"{path}: AU{au} reads feature {widest}, which its region {region} does not have")
    weight = np.concatenate([maps[region][0] for region in REGIONS], axis=1)
    bias = np.concatenate([maps[region][1] for region in REGIONS])
    return BoostedHog(weight, bias, widths, members, regions).eval()


def build_svm(files: Mapping[str, Path]) -> LinearHog:
    """Action units by linear support vectors.

    Args:
        files: `weights`: a skops file of the reference.

    Raises:
        WeightsError: it cannot be read, has an unexpected type, or lacks an action unit.
    """
    return _build_linear(Path(files["weights"]), [(f"AU{au}", SVM_REGIONS.get(au, "full")) for au in AU_NUMBERS])


def build_emotion_svm(files: Mapping[str, Path]) -> LinearHog:
    """Emotions by linear support vectors.

    Args:
        files: `weights`: a skops file of the reference.

    Raises:
        WeightsError: it cannot be read, has an unexpected type, or lacks an emotion.
    """
    return _build_linear(Path(files["weights"]), [(name, "full") for name in _FILE_EMOTIONS])


def _build_linear(path: Path, outputs: Sequence[tuple[str, str]]) -> LinearHog:
    held = read_classifiers(path)
    maps = {region: _affine(path, held, region) for region in {region for _, region in outputs}}
    weights, biases, labels = [], [], []
    for name, region in outputs:
        found = held.classifiers.get(name)
        if not isinstance(found, LinearClassifier) or len(found.classes_) != 2:
            raise WeightsError(f"{path}: no linear two-class classifier {name!r}; it has {', '.join(held.classifiers)}")
        weight, bias = maps[region]
        coefficients = np.asarray(found.coef_, np.float64).ravel()
        if len(coefficients) != weight.shape[1] + _LANDMARKS:
            raise WeightsError(
                f"{path}: {name} reads {len(coefficients)} features, region {region} gives {len(weight.T) + _LANDMARKS}"
            )
        projected, landmarks = coefficients[:-_LANDMARKS], coefficients[-_LANDMARKS:]
        weights.append(np.concatenate([weight @ projected, landmarks]))
        biases.append(float(bias @ projected) + float(np.ravel(found.intercept_)[0]))
        labels.append(np.asarray(found.classes_, np.float64))
    return LinearHog(np.stack(weights, axis=1), np.array(biases), np.stack(labels, axis=1)).eval()


def _affine(path: Path, held: HogClassifiers, region: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardizing and PCA of a region as x @ weight + bias, float64."""
    try:
        scaler, projection = held.region(region)
        weight = np.asarray(projection.components_, np.float64).T
        mean = np.asarray(projection.mean_, np.float64)
        scale = np.ones(len(weight)) if scaler.scale_ is None else np.asarray(scaler.scale_, np.float64)
        shift = np.zeros(len(weight)) if scaler.mean_ is None else np.asarray(scaler.mean_, np.float64)
        if getattr(projection, "whiten", False):
            weight = weight / np.sqrt(np.asarray(projection.explained_variance_, np.float64))
    except AttributeError as error:
        raise WeightsError(f"{path}: no scaler and PCA for the region {region}: {error}") from error
    if len(weight) != HOG_WIDTH:
        raise WeightsError(f"{path}: the region {region} reads {len(weight)} features, expected {HOG_WIDTH}")
    return weight / scale[:, None], -(shift / scale + mean) @ weight
