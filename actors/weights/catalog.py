"""The catalog: all models that Faceatlas knows by name, and the bundles made of them, as literal tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.schema import SLOTS

#: inputs of models: whole frames; the reference's crops of 112 and 224 pixels (box grown 1.2 and 1.1 times) and the
#: 224-pixel crop of the 1.2-times box; faces aligned on five points; the 68 landmarks; HOG features of the aligned,
#: masked face; or the pose that the face model itself gave for each face
INPUTS = ("frames", "crops112", "crops224", "wide224", "aligned112", "landmarks", "hog112", "detector")


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
class PackageFile:
    """A weight file that ships with Faceatlas.

    Attributes:
        name: path below the package `actors`.
    """

    name: str


@dataclass(frozen=True)
class ModelCard:
    """The facts of a model that are needed before it is loaded.

    Attributes:
        builder: `module:function`, called as `function(files, **parameters)`.
        input: one of INPUTS.
        files: role -> location of the file.
        license: of the weights, as their publisher states it.
        research_only: the license forbids commercial use; stated wherever the model is named.
        algorithm: incremented when our code changes this model's numbers; part of the version.
        points: a face model that also gives five points per face.
        poses: a face model that also gives a head pose per face.
        same_person_cosine: for embeddings, the cosine at which two tracks are one person.
        switch_cosine: for embeddings, the cosine to its track below which a good face is somebody else; None: the
            tracker's own.
        precision: kind of device -> dtype of the network that keeps its outputs within the tolerances of
            docs/parity.md; float32 where not named.
    """

    builder: str
    input: str
    files: Mapping[str, HubFile | PackageFile] = field(default_factory=dict)
    license: str = "unknown"
    research_only: bool = False
    algorithm: int = 1
    points: bool = False
    poses: bool = False
    same_person_cosine: float | None = None
    switch_cosine: float | None = None
    precision: Mapping[str, str] = field(default_factory=dict)


_OURS = "Apache-2.0 (trained by this project, docs/tiny.md)"

#: slot -> name -> card; the names are those of the reference, where it has the model
MODELS: dict[str, dict[str, ModelCard]] = {
    "face": {
        "retinaface_r34": ModelCard(
            builder="actors.models.retinaface:build_retinaface_r34",
            input="frames",
            files={"weights": HubFile("py-feat/retinaface_r34", ("model.safetensors", "retinaface_r34.safetensors"))},
            license="MIT",
            points=True,
        ),
        "retinaface_mnet025": ModelCard(
            builder="actors.models.retinaface:build_retinaface_mnet025",
            input="frames",
            files={"weights": HubFile("py-feat/retinaface_mnet025", ("model.safetensors",))},
            license="MIT",
            points=True,
        ),
        "img2pose": ModelCard(
            builder="actors.models.img2pose:build_img2pose",
            input="frames",
            files={
                "weights": HubFile("py-feat/img2pose", ("model.safetensors",)),
                "config": HubFile("py-feat/img2pose", ("config.json",)),
            },
            license="CC-BY-NC-4.0",
            research_only=True,
            poses=True,
        ),
        "tiny": ModelCard(
            builder="actors.models.tiny:build_tiny_face",
            input="frames",
            files={"weights": PackageFile("tiny/face.safetensors")},
            algorithm=2,
            license=_OURS,
            points=True,
        ),
    },
    "landmarks": {
        "mobilefacenet": ModelCard(
            builder="actors.models.mobilefacenet:build_mobilefacenet",
            input="crops112",
            files={"weights": HubFile("py-feat/mobilefacenet", ("mobilefacenet_model_best.pth.tar",))},
            license="none stated",
            precision={"cuda": "float16"},
        ),
        "pfld": ModelCard(
            builder="actors.models.pfld:build_pfld",
            input="crops112",
            files={"weights": HubFile("py-feat/pfld", ("pfld_model_best.pth.tar",))},
            license="none stated",
            precision={"cuda": "float16"},
        ),
        "mobilenet": ModelCard(
            builder="actors.models.mobilenet:build_mobilenet",
            input="wide224",
            files={"weights": HubFile("py-feat/mobilenet", ("mobilenet_224_model_best_gdconv_external.pth.tar",))},
            license="none stated",
        ),
        "tiny": ModelCard(
            builder="actors.models.tiny:build_tiny_landmarks",
            input="crops112",
            files={"weights": PackageFile("tiny/traits.safetensors")},
            license=_OURS,
        ),
    },
    "pose": {
        "pose_mlp": ModelCard(
            builder="actors.models.pose_mlp:build_pose_mlp",
            input="landmarks",
            files={
                "weights": HubFile("py-feat/pose_mlp_v2", ("pose_mlp_v2.safetensors",)),
                "config": HubFile("py-feat/pose_mlp_v2", ("pose_mlp_v2.json",)),
            },
            license="none stated",
        ),
        "img2pose": ModelCard(
            builder="actors.models.img2pose:build_pose_from_detector",
            input="detector",
            license="CC-BY-NC-4.0 (that of the face model)",
            research_only=True,
        ),
        "tiny": ModelCard(
            builder="actors.models.tiny:build_tiny_pose",
            input="crops112",
            files={"weights": PackageFile("tiny/traits.safetensors")},
            license=_OURS,
        ),
    },
    "action_units": {
        "xgb": ModelCard(
            builder="actors.models.action_units:build_xgb",
            input="hog112",
            files={
                "weights": HubFile("py-feat/xgb_au", ("xgb_au_classifier_v2.skops", "xgb_au_classifier.skops")),
            },
            license="no single license stated",
        ),
        "svm": ModelCard(
            builder="actors.models.action_units:build_svm",
            input="hog112",
            files={
                "weights": HubFile("py-feat/svm_au", ("svm_au_classifier_v2.skops", "svm_au_classifier.skops")),
            },
            license="no single license stated",
        ),
    },
    "emotions": {
        "resmasknet": ModelCard(
            builder="actors.models.resmasknet:build_resmasknet",
            input="crops224",
            files={"weights": HubFile("py-feat/resmasknet", ("ResMaskNet_Z_resmasking_dropout1_rot30.pth",))},
            license="none stated",
        ),
        "svm": ModelCard(
            builder="actors.models.action_units:build_emotion_svm",
            input="hog112",
            files={"weights": HubFile("py-feat/svm_emo", ("svm_emo_classifier.skops",))},
            license="no single license stated",
        ),
        "tiny": ModelCard(
            builder="actors.models.tiny:build_tiny_emotions",
            input="crops112",
            files={"weights": PackageFile("tiny/traits.safetensors")},
            license=_OURS,
        ),
    },
    "embeddings": {
        "arcface_r50": ModelCard(
            builder="actors.models.arcface:build_arcface_r50",
            input="crops112",
            files={"weights": HubFile("py-feat/arcface_r50", ("arcface_r50.safetensors",))},
            license="non-commercial research only",
            research_only=True,
            # start value for ArcFace-like embeddings; to be calibrated with the published weights
            same_person_cosine=0.22,
        ),
        "facenet": ModelCard(
            builder="actors.models.facenet:build_facenet",
            input="crops112",
            files={"weights": HubFile("py-feat/facenet", ("facenet_20180402_114759_vggface2.pth",))},
            license="trained on VGGFace2: non-commercial research only",
            research_only=True,
            # start value: the same person's cosines are about 0.60 to 0.70; to be calibrated with the published weights
            same_person_cosine=0.65,
        ),
        "tiny": ModelCard(
            builder="actors.models.tiny:build_tiny_identity",
            input="aligned112",
            files={"weights": PackageFile("tiny/identity.safetensors")},
            license=_OURS,
            same_person_cosine=0.30,
            # strangers' cosines reach far above the 0.1 that holds for larger networks
            switch_cosine=0.30,
        ),
    },
    "gaze": {
        "l2cs": ModelCard(
            builder="actors.models.l2cs:build_l2cs",
            input="crops112",
            files={"weights": HubFile("py-feat/l2cs", ("l2cs_gaze360_resnet50.safetensors",))},
            license="trained on Gaze360: no commercial use",
            research_only=True,
        ),
        "tiny": ModelCard(
            builder="actors.models.tiny:build_tiny_gaze",
            input="crops112",
            files={
                "weights": PackageFile("tiny/gaze.safetensors"),
                "traits": PackageFile("tiny/traits.safetensors"),
            },
            algorithm=2,
            license=_OURS,
        ),
    },
}

BUNDLES: dict[str, dict[str, str]] = {
    "pyfeat": {
        "face": "retinaface_r34",
        "landmarks": "mobilefacenet",
        "pose": "pose_mlp",
        "action_units": "xgb",
        "emotions": "resmasknet",
        "embeddings": "arcface_r50",
        "gaze": "l2cs",
    },
    # no download: small networks of our own that ship with the package (docs/tiny.md)
    "tiny": {slot: "tiny" for slot in SLOTS if slot != "action_units"},
}
