"""Factories of the bundle `small.yaml`: boxes that a test gives, and small models with random weights."""

import numpy as np
import torch
import xgboost

from actors.models import Detections
from actors.models.action_units import BoostedHog, LinearHog
from actors.models.pose_mlp import PoseMLP
from actors.models.trees import read_trees
from actors.ops.hog import HOG_WIDTH

_LANDMARKS = 136


class Given:
    """Finds what a test says: `of_frames` holds the faces of each frame to come, as rows of `FLOW`, column `face`."""

    def __init__(self):
        self.of_frames = []

    def detect(self, frames_BCHW):
        given = [self.of_frames.pop(0) for _ in frames_BCHW]
        faces_NV = torch.from_numpy(np.concatenate(given)).to(frames_BCHW.device)
        frame_N = torch.repeat_interleave(torch.tensor([len(faces) for faces in given])).to(frames_BCHW.device)
        return Detections(frame_N, faces_NV[:, :4], faces_NV[:, 4], faces_NV[:, 5:15].reshape(-1, 5, 2))


def given(weights):
    return Given()


def pose(weights):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PoseMLP([16], 0.0, mean=[0.0] * 6, std=[1.0] * 6).eval()


def boosted(weights, width=4):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(200, width)), rng.uniform(0, 112, (200, _LANDMARKS))], axis=1)
    labels = xgboost.DMatrix(x, rng.integers(0, 2, 200), nthread=1)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, labels, 5)
    members = [read_trees(booster.__getstate__()["handle"])] * 20
    weight = rng.normal(size=(HOG_WIDTH, width)) / 10
    return BoostedHog(weight, np.zeros(width), [width], members, [0] * 20)


def linear(weights):
    rng = np.random.default_rng(1)
    labels = np.stack([np.zeros(7), np.ones(7)])
    return LinearHog(rng.normal(size=(HOG_WIDTH + _LANDMARKS, 7)), np.zeros(7), labels)
