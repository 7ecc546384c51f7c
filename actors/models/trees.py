"""Boosted trees of xgboost as tensors: all trees of all classifiers are walked at once, one level per step."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xgboost
from torch import Tensor, nn

from actors.errors import WeightsError

_LOGISTIC, _HINGE = ("binary:logistic", "reg:logistic"), "binary:hinge"
_BLOCK_WALKS = {"cpu": 1 << 15, "cuda": 1 << 25}  # faces x trees at once; on a CPU their indices stay in the cache


@dataclass(frozen=True)
class Trees:
    """One classifier.

    Attributes:
        left, right: per tree, the children of each node; -1 at a leaf.
        feature: per tree, the column that each node compares.
        value: per tree, the threshold of a node (left if below it), or the value of a leaf.
        offset: added to the values of the leaves.
        is_hinge: the output is 0 or 1; else a probability.
        booster: xgboost's own form of it.
        rounds: boosting rounds that are used.
    """

    left: Sequence[np.ndarray]
    right: Sequence[np.ndarray]
    feature: Sequence[np.ndarray]
    value: Sequence[np.ndarray]
    offset: float
    is_hinge: bool
    booster: xgboost.Booster
    rounds: int

    def __len__(self) -> int:
        return len(self.value)


def read_trees(handle: bytearray | bytes) -> Trees:
    """The trees of a serialized xgboost Booster.

    Args:
        handle: as xgboost pickles it.

    Raises:
        WeightsError: xgboost cannot read it (files before `_v2` have a format that xgboost 3 dropped), or it is not a
            two-class model of numeric splits.
    """
    booster = xgboost.Booster()
    try:
        booster.__setstate__({"handle": bytearray(handle)})
        learner: Any = json.loads(booster.save_raw("json"))["learner"]
    except xgboost.core.XGBoostError as error:
        reason = str(error).strip().splitlines()[-1][:200]
        raise WeightsError(
            f"xgboost {xgboost.__version__} cannot read a booster ({reason}); if the file was saved by xgboost before "
            "2.1, take the publisher's newer file (…_v2.skops)"
        ) from error
    objective, kind = learner["objective"]["name"], learner["gradient_booster"]["name"]
    trees = learner["gradient_booster"].get("model", {}).get("trees", [])
    classes = int(learner["learner_model_param"]["num_class"])
    if objective not in (*_LOGISTIC, _HINGE) or kind != "gbtree" or classes > 1 or not trees:
        raise WeightsError(f"expected a two-class tree model of xgboost, got {kind} for {objective}, {classes} classes")
    if any(tree.get("categories") or any(tree["split_type"]) for tree in trees):
        raise WeightsError("boosters that split by category are not supported")
    ends = learner["gradient_booster"]["model"]["iteration_indptr"]
    rounds = int(learner["attributes"].get("best_iteration", len(ends) - 2)) + 1
    trees = trees[: ends[rounds]]
    base = float(learner["learner_model_param"]["base_score"].strip("[]"))
    return Trees(
        left=[np.array(tree["left_children"], np.int64) for tree in trees],
        right=[np.array(tree["right_children"], np.int64) for tree in trees],
        feature=[np.array(tree["split_indices"], np.int64) for tree in trees],
        value=[np.array(tree["split_conditions"], np.float32) for tree in trees],
        offset=base if objective == _HINGE else math.log(base / (1 - base)),
        is_hinge=objective == _HINGE,
        booster=booster,
        rounds=rounds,
    )


class TreeEnsemble(nn.Module):
    """All trees of several classifiers in one table of nodes; a leaf is its own child, so short trees stay there."""

    feature: Tensor
    value: Tensor
    child: Tensor
    root_T: Tensor
    owner_T: Tensor
    offset: Tensor
    hinge: Tensor

    def __init__(self, classifiers: Sequence[Trees], starts: Sequence[int]) -> None:
        """Lay out the table.

        Args:
            classifiers: in the order of the outputs.
            starts: the column of the input at which each classifier's own columns begin.
        """
        super().__init__()
        feature, children, roots, first = [], [], [], 0
        self.depth = 0
        for trees, start in zip(classifiers, starts, strict=True):
            for left, right, columns in zip(trees.left, trees.right, trees.feature, strict=True):
                nodes, is_leaf = np.arange(len(left)), left < 0
                pair = np.stack([np.where(is_leaf, nodes, left), np.where(is_leaf, nodes, right)], axis=1)
                children.append(pair + first)
                feature.append(np.where(is_leaf, 0, columns) + start)
                roots.append(first)
                first += len(left)
                self.depth = max(self.depth, _depth(pair))
        buffers = {
            "feature": np.concatenate(feature),
            "value": np.concatenate([value for trees in classifiers for value in trees.value]),
            "child": np.concatenate(children).ravel(),
            "root_T": np.array(roots),
            "owner_T": np.repeat(np.arange(len(classifiers)), [len(trees) for trees in classifiers]),
            "offset": np.array([trees.offset for trees in classifiers], np.float32),
            "hinge": np.array([trees.is_hinge for trees in classifiers]),
        }
        for name, array in buffers.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Probability of the second class of each classifier.

        Args:
            x: (N, width) float32, finite.

        Returns:
            (N, classifiers) float32: what `predict_proba` of xgboost gives as the second column.
        """
        step = max(1, _BLOCK_WALKS[x.device.type] // len(self.root_T))
        margins = [self._margins(x[low : low + step]) for low in range(0, len(x), step)]
        margin = torch.cat(margins) if margins else x.new_empty(0, len(self.offset))
        return torch.where(self.hinge, (margin > 0).to(x.dtype), margin.sigmoid())

    def _margins(self, x: Tensor) -> Tensor:
        node_NT = self.root_T.expand(len(x), -1)
        for _ in range(self.depth):
            column_NT = x.gather(1, self.feature[node_NT])
            node_NT = self.child[2 * node_NT + (column_NT >= self.value[node_NT])]
        margin = self.offset.repeat(len(x), 1)
        return margin.index_add_(1, self.owner_T, self.value[node_NT])


def _depth(children: np.ndarray) -> int:
    """Steps from the root to the deepest leaf."""
    level, steps = np.array([0]), 0
    while True:
        inner = level[children[level, 0] != level]
        if not len(inner):
            return steps
        level, steps = np.unique(children[inner]), steps + 1
