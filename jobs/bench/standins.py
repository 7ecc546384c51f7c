"""Stand-in weights for every model of the bundle `pyfeat`, to measure speed without the published files.

Networks have the published architecture, size and file layout; their numbers are drawn, the same on every machine.
The boosters and the PCA have sizes of the published order. What the models say of a face means nothing.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from actors.models import Detections
from actors.models.action_units import REGIONS
from actors.models.arcface import IResNet50
from actors.models.facenet import InceptionResnetV1
from actors.models.l2cs import L2CS
from actors.models.mobilefacenet import MobileFaceNet
from actors.models.mobilenet import MobileNetGDConv
from actors.models.pose_mlp import PoseMLP
from actors.models.resmasknet import ResMaskNet
from actors.models.retinaface import build_retinaface_r34, new_retinaface_r34
from actors.weights.catalog import BUNDLES, MODELS, HubFile
from pipeline.schema import AU_NUMBERS

_POSE = {"hidden": [512, 256, 128], "dropout": 0.0, "output_normalization": {"mean": [0.0] * 6, "std": [0.5] * 6}}

#: model -> its network without weights
NETS: dict[str, Callable[[], nn.Module]] = {
    "retinaface_r34": new_retinaface_r34,
    "mobilefacenet": MobileFaceNet,
    "mobilenet": MobileNetGDConv,
    "pose_mlp": lambda: PoseMLP(hidden=[512, 256, 128], dropout=0.0, mean=[0.0] * 6, std=[0.5] * 6),
    "resmasknet": ResMaskNet,
    "arcface_r50": IResNet50,
    "facenet": InceptionResnetV1,
    "l2cs": L2CS,
}
#: model -> the key under which its published torch file holds the tensors
_WITHIN = {"mobilefacenet": "state_dict", "resmasknet": "net"}


def standin_state(model: str) -> dict[str, Tensor]:
    """Tensors of a network by name, each a function of its name and shape alone.

    Weights are normal with a variance of 0.8 / fan-in, so that signals neither vanish nor grow through the layers.

    Args:
        model: one of NETS.
    """
    with torch.device("meta"):
        net = NETS[model]()
    # layers outside a state_dict's tensors (priors, means) are no part of the file
    state = {name: _drawn(name, tensor) for name, tensor in net.state_dict().items()}
    for name in state:
        # as with trained weights nearly all anchors hold nothing; else half of them would be candidates for suppression
        if name.startswith("ClassHead") and name.endswith("weight"):
            state[name] *= 0.02
        elif name.startswith("ClassHead"):
            state[name] += torch.tensor([2.0, -2.0]).repeat(len(state[name]) // 2)
    return state


def _drawn(name: str, like: Tensor) -> Tensor:
    shape = tuple(like.shape)
    if not like.is_floating_point():
        return torch.zeros(shape, dtype=like.dtype)
    rng = torch.Generator().manual_seed(zlib.crc32(f"{name}|{shape}".encode()))
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):  # norms, slopes of PReLU
        low, high = (0.2, 0.3) if "relu" in name else (0.8, 1.2)
        return torch.empty(shape).uniform_(low, high, generator=rng)
    if len(shape) < 2:
        return torch.empty(shape).normal_(0, 0.05, generator=rng)
    return torch.empty(shape).normal_(0, (0.8 / like[0].numel()) ** 0.5, generator=rng)


def write_boosters(path: Path, components: int = 1000, trees: int = 120) -> None:
    """A file of the reference's boosted classifiers: one scaler and PCA for all regions, a booster per action unit.

    Args:
        path: of the skops file.
        components: that the PCA projects to.
        trees: of each booster, of depth 6.
    """
    import skops.io
    import xgboost
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    rng, rows = np.random.default_rng(0), 400
    scaler, pca = StandardScaler(), PCA(8)
    x = rng.gamma(1.0, 0.08, (rows, 5408)).astype(np.float32)
    pca.fit(scaler.fit_transform(x))
    pca.components_ = rng.normal(0, 0.02, (components, 5408))
    pca.n_components_, pca.explained_variance_ = components, np.ones(components)
    features = np.concatenate([pca.transform(scaler.transform(x)), rng.integers(0, 112, (rows, 136))], axis=1)
    # the reference's own name for it: what reads the file knows it by that, and has no other use for the class
    wrapper: Any = type("XGBClassifier", (), {"__module__": "feat.au_detectors.StatLearning.SL_test"})()
    for region in REGIONS:
        setattr(wrapper, f"scaler_{region}", scaler)
        setattr(wrapper, f"pca_model_{region}", pca)
    # A tree sees a twentieth of the columns: walking it costs the same, and it is made sooner. Trees fitted to noise at
    # the usual rate of 0.3 jump by up to 0.24 when float rounding carries a face across a threshold, which would hide
    # wrong numbers (measured on 8 faces, one thread against two); small steps make the jumps small.
    kind = {"n_estimators": trees, "max_depth": 6, "colsample_bytree": 0.05, "learning_rate": 0.01, "n_jobs": 2}
    wrapper.classifiers = {
        f"AU{au}": xgboost.XGBClassifier(**kind).fit(features, rng.integers(0, 2, rows)) for au in AU_NUMBERS
    }
    skops.io.dump(wrapper, path)


def write_standins(folder: Path, faces: int = 1, landmarks: Path | None = None, boosters: Path | None = None) -> Path:
    """Write the weights, laid out like the hub, and a bundle that uses them.

    Args:
        folder: to write to; made if it is not there.
        faces: that the bundle's face model gives per frame.
        landmarks: published weights of mobilefacenet, to take instead of drawn ones.
        boosters: a skops file of boosters, to take instead of made ones.

    Returns:
        The bundle's path.
    """
    entries: dict[str, dict[str, Any]] = {}
    for slot, model in BUNDLES["pyfeat"].items():
        weights = {}
        for role, file in MODELS[slot][model].files.items():
            assert isinstance(file, HubFile)
            path = folder / file.repo / file.names[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            given = {"mobilefacenet": landmarks, "xgb": boosters}.get(model)
            if given is not None:
                path.write_bytes(given.read_bytes())
            else:
                _write(model, role, path)
            weights[role] = str(path.relative_to(folder))
        entries[slot] = {"model": model, "weights": weights}
    entries["face"] = {
        "factory": "jobs.bench.standins:FixedFaces",
        "input": "frames",
        "weights": entries["face"]["weights"]["weights"],
        "parameters": {"faces": faces},
        "thread_safe": True,
    }
    bundle = folder / "bundle.yaml"
    bundle.write_text(yaml.safe_dump({"extends": "pyfeat", "models": entries}, sort_keys=False))
    return bundle


def _write(model: str, role: str, path: Path) -> None:
    if model == "xgb":
        write_boosters(path)
    elif role == "config":
        path.write_text(json.dumps({"architecture": _POSE}))
    elif model in _WITHIN:
        torch.save({_WITHIN[model]: standin_state(model)}, path)
    else:
        save_file(standin_state(model), path)


class FixedFaces(nn.Module):
    """RetinaFace in full, whose answer is replaced by a fixed number of boxes in every frame.

    So the work of a frame does not depend on what stand-in weights see in it. The first box covers 30 to 90 % of the
    width and 20 to 100 % of the height; further ones are as large and shifted.
    """

    def __init__(self, weights: Path, faces: int = 1) -> None:
        super().__init__()
        self.net, self.faces = build_retinaface_r34({"weights": weights}), faces

    def forward(self, frames_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The detector's raw output; the actor folds norms along it."""
        return self.net(frames_BCHW)

    @torch.inference_mode()
    def detect(self, frames_BCHW: Tensor) -> Detections:
        """Fixed boxes; see actors/models for the convention."""
        self.net.detect(frames_BCHW)
        (count, _, height, width), device = frames_BCHW.shape, frames_BCHW.device
        shift_N = torch.arange(self.faces, device=device).repeat(count) * 0.01
        box_4 = torch.tensor([0.3, 0.2, 0.9, 1.0], device=device)
        size_4 = torch.tensor([width, height, width, height], device=device, dtype=torch.float32)
        boxes_N4 = (box_4 - shift_N[:, None]) * size_4
        frame_N = torch.arange(count, device=device).repeat_interleave(self.faces)
        # eyes, nose tip, mouth corners where a face has them in its box
        place_52 = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], device=device)
        points_N52 = boxes_N4[:, None, :2] + place_52 * (boxes_N4[:, None, 2:] - boxes_N4[:, None, :2])
        return Detections(frame_N, boxes_N4, boxes_N4.new_full((len(frame_N),), 0.99), points_N52)


def standins(
    folder: Annotated[Path, typer.Argument(help="Folder to write weights and bundle.yaml to.")],
    landmarks: Annotated[Path | None, typer.Option(help="Published weights of mobilefacenet, instead.")] = None,
    boosters: Annotated[Path | None, typer.Option(help="A skops file of boosters, instead of made ones.")] = None,
    faces: Annotated[int, typer.Option(min=0, help="Faces per frame.")] = 1,
) -> None:
    """Write stand-in weights for every model of the bundle pyfeat, and a bundle that uses them.

    Example: python -m jobs.bench standins /tmp/standins --faces 5
    """
    print(write_standins(folder, faces, landmarks, boosters))
