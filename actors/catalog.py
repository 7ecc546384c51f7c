"""The models that Faceatlas knows by name, and the bundles made of them: plain tables to read and to grep."""

from collections.abc import Mapping
from dataclasses import dataclass, field

SLOTS = ("face", "landmarks", "pose", "action_units", "emotions", "embeddings", "gaze")

INPUTS = ("frames", "crops112", "crops224", "aligned112", "landmarks")


@dataclass(frozen=True)
class HubFile:
    """A file of a hub repository.

    Attributes:
        repo: `owner/name` on the hub.
        names: file name, then the names under which older revisions hold it.
        revision: pinned commit; None: the default branch, resolved and recorded at each run.
    """

    repo: str
    names: tuple[str, ...]
    revision: str | None = None


@dataclass(frozen=True)
class ModelCard:
    """What must be known of a model before it is loaded.

    Attributes:
        slot: the slot it fills.
        builder: `module:function`, called as `function(files, **parameters)`.
        input: one of INPUTS.
        files: role -> where the file is.
        licence: of the weights, as their publisher states it.
        algorithm: raised when our code changes this model's numbers; part of the version.
        points: a face model that also gives five points per face.
        same_person_cosine: for embeddings, the cosine at which two tracks are one person.
    """

    slot: str
    builder: str
    input: str
    files: Mapping[str, HubFile] = field(default_factory=dict)
    licence: str = "unknown"
    algorithm: int = 1
    points: bool = False
    same_person_cosine: float | None = None


MODELS: dict[str, ModelCard] = {
    "retinaface_r34": ModelCard(
        slot="face",
        builder="actors.models.retinaface:build_retinaface_r34",
        input="frames",
        files={"weights": HubFile("py-feat/retinaface_r34", ("model.safetensors", "retinaface_r34.safetensors"))},
        licence="MIT",
        points=True,
    ),
    "retinaface_mnet025": ModelCard(
        slot="face",
        builder="actors.models.retinaface:build_retinaface_mnet025",
        input="frames",
        files={"weights": HubFile("py-feat/retinaface_mnet025", ("model.safetensors",))},
        licence="MIT",
        points=True,
    ),
    "lbp_cascade": ModelCard(
        slot="face",
        builder="actors.models.cascade:build_lbp_cascade",
        input="frames",
        licence="BSD-3-Clause (part of scikit-image)",
    ),
    "mobilefacenet": ModelCard(
        slot="landmarks",
        builder="actors.models.mobilefacenet:build_mobilefacenet",
        input="crops112",
        files={"weights": HubFile("py-feat/mobilefacenet", ("mobilefacenet_model_best.pth.tar",))},
        licence="none stated",
    ),
    "pose_mlp": ModelCard(
        slot="pose",
        builder="actors.models.pose_mlp:build_pose_mlp",
        input="landmarks",
        files={
            "weights": HubFile("py-feat/pose_mlp_v2", ("pose_mlp_v2.safetensors",)),
            "config": HubFile("py-feat/pose_mlp_v2", ("pose_mlp_v2.json",)),
        },
        licence="none stated",
    ),
    "arcface_r50": ModelCard(
        slot="embeddings",
        builder="actors.models.arcface:build_arcface_r50",
        input="crops112",
        files={"weights": HubFile("py-feat/arcface_r50", ("arcface_r50.safetensors",))},
        licence="non-commercial research only",
        same_person_cosine=0.22,  # start value for ArcFace-like embeddings; to be calibrated with the published weights
    ),
}

BUNDLES: dict[str, dict[str, str]] = {
    "pyfeat": {
        "face": "retinaface_r34",
        "landmarks": "mobilefacenet",
        "pose": "pose_mlp",
        "embeddings": "arcface_r50",
    },
    # no download: a classical detector whose parameters ship inside scikit-image
    "cascade": {"face": "lbp_cascade"},
}
