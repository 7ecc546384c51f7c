"""Runs py-feat on two portraits and writes its answers; make_reference.py calls this in py-feat's environment.

    python pyfeat_answers.py OUT

Everything that py-feat computes is computed by its own functions. What it would download comes from stand-ins:
networks are filled by `reference/standin.py`, and the classical models are fitted here to drawn numbers.
"""

import feat.detector as reference  # first, as py-feat wants it: xgboost's OpenMP before torch's

# ruff: isort: split
import functools
import hashlib
import json
import platform
import shutil
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import av
import feat.utils
import huggingface_hub
import matplotlib.cbook
import numpy as np
import pandas as pd
import skimage.data
import skops.io
import torch
import xgboost
from feat.face_detectors.Retinaface.Retinaface_model import RetinaFace
from feat.face_detectors.Retinaface.Retinaface_test import Retinaface
from feat.gaze_detectors.l2cs import L2CSPipeline, l2cs_resnet50
from feat.utils import face_pose_mlp
from feat.utils.face_mask import extract_hog_features_batched
from feat.utils.image_operations import (
    HOGLayer,
    convert_bbox_output,
    extract_face_from_bbox_torch,
    inverse_transform_landmarks_torch,
)
from feat.utils.stats import cluster_identities
from PIL import Image
from safetensors.torch import save_file
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

STANDIN = Path(__file__).resolve().parent / "reference" / "standin.py"
sys.path.insert(0, str(STANDIN.parent))
from standin import fill  # noqa: E402

#: picture -> SHA-256 of its uint8 RGB pixels
PICTURES = {
    "astronaut": "a8c429c18afa7b0fd5673e598d73a21225d94c864a71bbb3885126fdecb41071",
    "hopper": "f7f982de68dd296af67ee51b2a95a2e5658f7bf064c6536520b66bae8d01fc34",
}
#: picture -> both eyes' and the mouth's middle, px, read off the picture by hand
ANCHORS = {
    "astronaut": [[203.75, 101.25], [247.5, 103.75], [223.75, 145.0]],
    "hopper": [[225.0, 190.0], [305.0, 186.0], [268.3, 281.7]],
}
#: picture -> the face, x1, y1, x2, y2 px
BOXES = {"astronaut": [175.0, 74.0, 272.0, 178.0], "hopper": [162.0, 137.0, 365.0, 333.0]}

POSE = {
    "architecture": {
        "hidden": [512, 256, 128],
        "dropout": 0.15,
        "output_normalization": {"mean": [0.1, -0.05, 0.02, 0.0, 0.1, 40.0], "std": [0.25, 0.12, 0.5, 3.0, 3.0, 15.0]},
    }
}
EMOTIONS = ("anger", "disgust", "fear", "happ", "sad", "sur", "neutral")
COMPONENTS = 12
#: The first with which rounding moves no action unit of the clip; `check_repeatable` says so if it is no longer.
CLASSIFIERS_SEED = 19


# ---------------------------------------------------------------------------------------------- pictures and faces


@functools.cache
def picture(name: str) -> np.ndarray:
    """uint8 RGB (H, W, 3) of one of PICTURES."""
    if name == "astronaut":
        pixels = skimage.data.astronaut()
    else:
        with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
            pixels = np.asarray(image.convert("RGB"))
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    if digest != PICTURES[name]:
        raise SystemExit(f"{name}: the pixels have SHA-256 {digest}, expected {PICTURES[name]}: another picture")
    return pixels


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def side_by_side(height: int, width: int) -> np.ndarray:
    """Both portraits in one frame."""
    left, right = picture("astronaut")[10:250, 110:330], picture("hopper")[60:410, 100:420]
    half = width // 2
    return np.concatenate([resized(left, half, height), resized(right, width - half, height)], axis=1)


def lit(pixels: np.ndarray, gain: float) -> np.ndarray:
    return np.clip(pixels * gain, 0, 255).astype(np.uint8)


def template() -> np.ndarray:
    """68 landmarks of a face in dlib's order, (68, 2), by formula: eyes 1 apart around the origin, mouth 1.1 below."""

    def curve(x, y):
        return np.stack([np.broadcast_to(x, np.shape(y)) if np.ndim(x) == 0 else x, np.broadcast_to(y, np.shape(x))], 1)

    turn = np.linspace(np.pi, 0, 17)
    jaw = curve(1.08 * np.cos(turn), 0.05 + 1.68 * np.sin(turn))
    arch = np.array([0.0, 0.09, 0.12, 0.1, 0.04])
    left_brow = curve(np.linspace(-0.86, -0.18, 5), -0.24 - arch)
    right_brow = curve(np.linspace(0.18, 0.86, 5), -0.24 - arch[::-1])
    bridge = curve(np.linspace(0.0, 0.01, 4), np.linspace(0.02, 0.56, 4))
    nostrils = curve(np.linspace(-0.21, 0.21, 5), np.array([0.66, 0.7, 0.73, 0.7, 0.66]))
    lid = np.array([[-0.22, 0.0], [-0.08, -0.08], [0.08, -0.08], [0.22, 0.01], [0.08, 0.07], [-0.08, 0.07]])
    eyes = [lid - np.array([0.5, 0.0]), lid + np.array([0.5, 0.0])]
    upper = curve(np.linspace(-0.44, 0.44, 7), 1.1 - np.array([0.0, 0.09, 0.14, 0.12, 0.14, 0.09, 0.0]))
    lower = curve(np.linspace(0.3, -0.3, 5), 1.1 + np.array([0.11, 0.16, 0.18, 0.16, 0.11]))
    inner_upper = curve(np.linspace(-0.36, 0.36, 5), 1.1 - np.array([0.0, 0.04, 0.03, 0.04, 0.0]))
    inner_lower = curve(np.linspace(0.18, -0.18, 3), 1.1 + np.array([0.04, 0.06, 0.04]))
    return np.concatenate([jaw, left_brow, right_brow, bridge, nostrils, *eyes, upper, lower, inner_upper, inner_lower])


def landmarks_of(name: str) -> np.ndarray:
    """The template laid on a portrait, (68, 2) px."""
    canonical = np.array([[-0.5, 0.0, 1.0], [0.5, 0.0, 1.0], [0.0, 1.1, 1.0]])
    affine = np.linalg.solve(canonical, np.array(ANCHORS[name]))
    return np.c_[template(), np.ones(68)] @ affine


def face_points() -> np.ndarray:
    """68 points of a made head for img2pose, (68, 3): x to the right, y down, nose toward the viewer (negative z)."""
    x, y = template().T
    y = y - 0.6
    depth = np.sqrt(np.clip(1.0 - (x / 1.3) ** 2 - (y / 1.6) ** 2, 0.0, None))
    return np.round(np.stack([0.68 * x, 0.6 * y, 0.45 - depth], axis=1), 6)


def cut(name: str, gain: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops of a portrait's face as py-feat cuts them, uint8 (3, 112, 112) and (3, 224, 224), and landmarks [0, 1]."""
    frame = to_tensor(lit(picture(name), gain))
    box = torch.tensor([BOXES[name]])
    crop112, place = extract_face_from_bbox_torch(frame, box, face_size=112)
    crop224, _ = extract_face_from_bbox_torch(frame, box, face_size=224, expand_bbox=1.1)
    x1, y1, x2, y2 = place[0].tolist()
    landmarks = (landmarks_of(name) - [x1, y1]) / [x2 - x1, y2 - y1]
    return to_bytes(crop112)[0], to_bytes(crop224)[0], landmarks.astype(np.float32).reshape(136)


def to_tensor(frame: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) -> float32 [0, 1] (1, 3, H, W)."""
    return torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 255


def to_bytes(crops: torch.Tensor) -> np.ndarray:
    return (crops * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def unit(crops: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(crops).float() / 255


# ------------------------------------------------------------------------------------------------ stand-in weights


def state_of(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(fill(k, tuple(v.shape))).to(v.dtype) for k, v in net.state_dict().items()}


def filled(net: torch.nn.Module) -> torch.nn.Module:
    net.load_state_dict(state_of(net))
    return net.eval()


def write_keys(net: torch.nn.Module, path: Path) -> None:
    """key -> [shape, dtype], one a line."""
    entries = {k: [list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in net.state_dict().items()}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
    path.write_text("{" + lines + "}\n")


def img2pose_config() -> dict:
    """Made numbers. The published points are CC BY-NC 4.0, so they are not in this repository."""
    return {
        "min_size": 400,
        "max_size": 1400,
        "pose_mean": [-0.02, 0.03, -0.01, 0.07, 0.24, 3.5],
        "pose_stddev": [0.24, 0.54, 0.18, 0.13, 0.14, 0.37],
        "threed_points": face_points().tolist(),
        "rpn_pre_nms_top_n_test": 6000,
        "rpn_post_nms_top_n_test": 60,
        "bbox_x_factor": 1.1,
        "bbox_y_factor": 1.1,
        "expand_forehead": 0.3,
    }


def img2pose_net(config: dict) -> torch.nn.Module:
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    tables = {name: torch.tensor(config[name]) for name in ("pose_mean", "pose_stddev")}
    sizes = {name: value for name, value in config.items() if name not in tables and name != "threed_points"}
    points = torch.tensor(config["threed_points"])
    return reference.FasterDoFRCNN(backbone=backbone, num_classes=2, threed_68_points=points, **tables, **sizes)


def resmasknet() -> torch.nn.Module:
    net = reference.ResMasking("", in_channels=3)
    net.fc = torch.nn.Sequential(torch.nn.Dropout(0.4), torch.nn.Linear(512, 7))
    return net


def facenet() -> torch.nn.Module:
    net = reference.InceptionResnetV1(pretrained=None, classify=False, num_classes=None, dropout_prob=0.6, device="cpu")
    net.logits = torch.nn.Linear(512, 8631)
    return net


def regions(rng: np.random.Generator) -> dict[str, tuple[StandardScaler, PCA]]:
    """A scaler and a PCA for each region, all different. The components have few digits, so that they compress."""
    made = {}
    for name in ("upper", "lower", "full"):
        faces = rng.gamma(1.0, 0.08, (200, 5408)).astype(np.float32)
        scaler, pca = StandardScaler(), PCA(COMPONENTS, svd_solver="randomized", random_state=0)
        pca.fit(scaler.fit_transform(faces))
        scaler.mean_, scaler.scale_, scaler.var_ = (np.round(v, 3) for v in (scaler.mean_, scaler.scale_, scaler.var_))
        pca.components_ = rng.integers(-31, 32, (COMPONENTS, 5408)).astype(np.float32) / 1024
        pca.mean_ = np.round(pca.mean_ * 64).astype(np.float32) / 64
        made[name] = (scaler, pca)
    return made


def inputs_of(region: tuple[StandardScaler, PCA], features: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    scaler, pca = region
    return np.concatenate([pca.transform(scaler.transform(features)), landmarks], axis=1)


def write_classifiers(out: Path, faces: np.ndarray, landmarks: np.ndarray, seed: int) -> None:
    """Three skops files of py-feat's layout, fitted to drawn labels of faces around the given ones.

    Args:
        out: folder.
        faces: HOG features, (n, 5408).
        landmarks: aligned, (n, 136).
        seed: of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    made = regions(rng)
    pick = rng.integers(0, len(faces), (2, 300))
    share = rng.random((300, 1))
    features = share * faces[pick[0]] + (1 - share) * faces[pick[1]]
    features = (features * rng.uniform(0.4, 1.6, features.shape)).astype(np.float32)
    points = np.round(share * landmarks[pick[0]] + (1 - share) * landmarks[pick[1]] + rng.normal(0, 4, (300, 136)))
    full = inputs_of(made["full"], features, points)
    parts = {f"scaler_{name}": scaler for name, (scaler, _) in made.items()}
    parts |= {f"pca_model_{name}": pca for name, (_, pca) in made.items()}
    aus = reference.XGBClassifier().au_keys

    def labels() -> np.ndarray:
        """A noisy side of a plane: not one that a model can fit without error, and never all the same."""
        score = ((full - full.mean(0)) / full.std(0)) @ rng.normal(0, 1, full.shape[1])
        return (score + rng.normal(0, 2, len(score)) > np.quantile(score, rng.uniform(0.3, 0.7))).astype(np.int64)

    def boosted(y: np.ndarray) -> xgboost.XGBClassifier:
        return xgboost.XGBClassifier(n_estimators=6, max_depth=2, learning_rate=0.5, n_jobs=1).fit(full, y)

    def linear(y: np.ndarray) -> LinearSVC:
        return LinearSVC(C=1e-3, random_state=0, max_iter=20000).fit(full, y)

    xgb, svm, emotions = reference.XGBClassifier(), reference.SVMClassifier(), reference.EmoSVMClassifier()
    xgb.load_weights(**parts, classifiers={au: boosted(labels()) for au in aus})
    svm.load_weights(**parts, classifiers={au: linear(labels()) for au in aus})
    scaler, pca = made["full"]
    emotions.load_weights(scaler_full=scaler, pca_model_full=pca, classifiers={e: linear(labels()) for e in EMOTIONS})
    for name, model in (("xgb_au", xgb), ("svm_au", svm), ("svm_emo", emotions)):
        skops.io.dump(model, out / f"{name}.skops", compression=zipfile.ZIP_DEFLATED, compresslevel=9)


def read_classifiers(path: Path):
    return skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))


# --------------------------------------------------------------------------------------------------------- answers


def answer_crops(out: Path) -> tuple[np.ndarray, torch.Tensor]:
    """crop.npz; gives the 112-pixel crops as uint8 and the crops' boxes."""
    frame = side_by_side(200, 320)
    boxes = torch.tensor([[47.3, 49.9, 130.2, 146.6], [-21.4, 30.7, 118.8, 158.3], [190.1, 60.2, 330.9, 214.4]])
    crops112, boxes112 = extract_face_from_bbox_torch(to_tensor(frame), boxes, face_size=112)
    crops224, boxes224 = extract_face_from_bbox_torch(to_tensor(frame), boxes, face_size=224, expand_bbox=1.1)
    np.savez_compressed(
        out / "crop.npz",
        frame=frame,
        boxes=boxes.numpy(),
        crops112=crops112.numpy(),
        boxes112=boxes112.numpy(),
        crops224=crops224[:, :, ::4, ::4].numpy(),
        boxes224=boxes224.numpy(),
        rect=convert_bbox_output(boxes112, torch.tensor([0.9, 0.8, 0.7])).numpy(),
    )
    return to_bytes(crops112), boxes112


def answer_landmarks(out: Path, crops: np.ndarray, boxes: torch.Tensor, crops224: np.ndarray) -> None:
    """mobilefacenet.npz, pfld.npz, mobilenet.npz."""
    nets = {
        "mobilefacenet": reference.MobileFaceNet([112, 112], 136, device="cpu"),
        "pfld": reference.PFLDInference(),
        "mobilenet": reference.MobileNet_GDConv(136),
    }
    for name, net in nets.items():
        write_keys(net, out / "keys" / f"{name}.json")
        filled(net)
    for name, take in (("mobilefacenet", lambda answer: answer[0]), ("pfld", lambda answer: answer)):
        landmarks = take(nets[name](unit(crops)))
        in_frame = inverse_transform_landmarks_torch(landmarks, boxes)
        np.savez_compressed(out / f"{name}.npz", crops=crops, landmarks=landmarks.numpy(), in_frame=in_frame.numpy())
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    landmarks = nets["mobilenet"]((unit(crops224) - mean) / std)
    np.savez_compressed(out / "mobilenet.npz", crops=crops224, landmarks=landmarks.numpy())


def answer_embeddings_gaze_emotions(out: Path, crops: np.ndarray, crops224: np.ndarray) -> None:
    """arcface_r50.npz, facenet.npz, l2cs.npz, resmasknet.npz."""
    arcface = reference.ArcFace(backbone="r50")
    write_keys(arcface.net, out / "keys" / "arcface_r50.json")
    filled(arcface.net)
    np.savez_compressed(out / "arcface_r50.npz", crops=crops, embeddings=arcface.eval()(unit(crops)).numpy())
    net = facenet()
    write_keys(net, out / "keys" / "facenet.json")
    np.savez_compressed(out / "facenet.npz", crops=crops, embeddings=filled(net)(unit(crops)).numpy())
    net = l2cs_resnet50()
    write_keys(net, out / "keys" / "l2cs.json")
    pitch, yaw = L2CSPipeline(filled(net))(unit(crops))
    np.savez_compressed(out / "l2cs.npz", crops=crops, pitch=pitch, yaw=yaw)
    net = resmasknet()
    write_keys(net, out / "keys" / "resmasknet.json")
    probabilities = torch.softmax(filled(net)(unit(crops224)), 1)
    np.savez_compressed(out / "resmasknet.npz", crops=crops224, probabilities=probabilities.numpy())


def answer_retinaface(out: Path) -> None:
    """retinaface_r34.npz: raw output and detections of two frames."""
    net = RetinaFace()
    write_keys(net, out / "keys" / "retinaface_r34.json")
    frame = side_by_side(150, 203)
    frames = np.stack([frame, lit(frame[:, ::-1], 0.6)]).transpose(0, 3, 1, 2)
    detector = Retinaface(device="cpu", pretrained="none")
    detector.net = filled(net)
    pixels = torch.from_numpy(frames).float()
    loc, conf, points = net(pixels - detector._mean)
    found = detector(pixels)
    detections = np.full((len(found), max(map(len, found)), 5), np.nan, np.float32)
    for row, faces in zip(detections, found, strict=True):
        row[: len(faces)] = faces
    np.savez_compressed(
        out / "retinaface_r34.npz",
        frames=frames,
        loc=loc.numpy(),
        conf=conf.numpy(),
        landmarks=points.numpy(),
        detections=detections,
    )


def answer_img2pose(out: Path) -> None:
    """img2pose.npz: output of the network, and faces after post-processing at 0.5."""
    config = img2pose_config()
    (out / "img2pose_config.json").write_text(json.dumps(config) + "\n")
    net = img2pose_net(config)
    write_keys(net, out / "keys" / "img2pose.json")
    frame = side_by_side(150, 201)
    (raw,) = filled(net)(to_tensor(frame))
    faces = reference.postprocess_img2pose(dict(raw), detection_threshold=0.5)
    np.savez_compressed(
        out / "img2pose.npz",
        frame=frame,
        **{name: faces[name].numpy() for name in ("boxes", "scores", "dofs")},
        **{f"raw_{name}": raw[name].numpy() for name in ("boxes", "labels", "scores", "dofs")},
    )


def answer_pose(out: Path) -> None:
    """pose_mlp.npz: three faces of the template, two of them turned and squeezed."""
    (out / "pose_mlp_v2.json").write_text(json.dumps(POSE) + "\n")
    net = face_pose_mlp.PoseMLP(**{k: POSE["architecture"][k] for k in ("hidden", "dropout")})
    write_keys(net, out / "keys" / "pose_mlp.json")
    norm = POSE["architecture"]["output_normalization"]
    numbers = [np.asarray(norm[name], dtype=np.float32) for name in ("mean", "std")]
    face_pose_mlp._CACHE["cpu"] = (filled(net), *numbers)
    faces = []
    for name, angle, squeeze in (("astronaut", 0.0, 1.0), ("hopper", 0.3, 0.8), ("hopper", -0.5, 1.2)):
        cos, sin = np.cos(angle), np.sin(angle)
        faces.append(landmarks_of(name) @ np.array([[cos, sin], [-sin, cos]]) * [squeeze, 1.0])
    landmarks = np.stack(faces).astype(np.float32)
    raw = face_pose_mlp.pose_from_landmarks_mlp(torch.from_numpy(landmarks))
    np.savez_compressed(out / "pose_mlp.npz", landmarks=landmarks, raw=raw.numpy())


def hog_layer() -> HOGLayer:
    return HOGLayer(
        orientations=8,
        pixels_per_cell=8,
        cells_per_block=2,
        block_normalization="L2-Hys",
        feature_vector=True,
        device="cpu",
    )


def answer_action_units(out: Path) -> None:
    """hog.npz, the three skops files, au.npz. The last face is lit until half of it is one flat white."""
    crops, _, landmarks = map(np.stack, zip(cut("astronaut"), cut("hopper"), cut("hopper", 2.6), strict=True))
    features, aligned = extract_hog_features_batched(unit(crops), torch.from_numpy(landmarks), hog_layer=hog_layer())
    aligned = np.stack([np.asarray(points) for points in aligned])
    np.savez_compressed(out / "hog.npz", crops=crops, landmarks=landmarks, features=features, aligned_landmarks=aligned)
    write_classifiers(out, features, aligned.reshape(len(aligned), 136), CLASSIFIERS_SEED)
    xgb, svm, emotions = (read_classifiers(out / f"{name}.skops") for name in ("xgb_au", "svm_au", "svm_emo"))
    np.savez_compressed(
        out / "au.npz",
        features=features,
        aligned_landmarks=aligned,
        xgb=xgb.detect_au(frame=features, landmarks=[aligned]),
        svm=svm.detect_au(frame=features, landmarks=[aligned]),
        emotion_svm=emotions.detect_emo(frame=features, landmarks=[aligned]),
    )


def answer_identities(out: Path) -> None:
    """identities.npz: labels of the three methods on made embeddings, some of them missing."""
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 8, 160)
    people = rng.normal(0, 1, (8, 512))
    people[1] = people[0] + rng.normal(0, 0.75, 512)  # two who look alike
    spread = rng.uniform(0.3, 0.75, (160, 1))
    embeddings = (people[truth] + spread * rng.normal(0, 1, (160, 512))).astype(np.float16).astype(np.float32)
    embeddings[[11, 42, 43, 159]] = np.nan
    labels = {}
    for method in ("gallery", "connected", "hdbscan"):
        for threshold in (0.5, 0.65, 0.8):
            found = cluster_identities(embeddings, threshold=threshold, method=method)
            labels[f"{method}_{threshold:g}"] = np.array([str(label) for label in found])
    np.savez_compressed(out / "identities.npz", embeddings=embeddings, truth=truth, **labels)


# -------------------------------------------------------------------------------------------- the detector as a whole


CLIP, STEP, FRAMES = "two_portraits.mp4", 4, 36


def frame_of_clip(number: int) -> tuple[np.ndarray, list[list[float]]]:
    """A frame of the clip, (180, 320, 3) uint8, and the boxes in it: both, one, or no face."""
    if 16 <= number < 20:  # nobody
        y, x = np.mgrid[0:180, 0:320]
        value = 127 + 60 * np.sin(x / 40 + number / 6) * np.cos(y / 30)
        return np.stack([value, 0.8 * value, 255 - value], axis=-1).astype(np.uint8), []
    frame, boxes = np.full((180, 320, 3), 40, np.uint8), []
    shift = number / 2
    for name, left, zoom in (("astronaut", 4, 1.0), ("hopper", 164, 0.52)):
        if name == "astronaut" and number >= 28:
            continue
        x1, y1, x2, y2 = BOXES[name]
        origin = np.array([(x1 + x2) / 2 - 76 / zoom + shift - 8, (y1 + y2) / 2 - 90 / zoom - shift / 2])
        view = (*origin, *(origin + np.array([152, 180]) / zoom))
        image = Image.fromarray(picture(name)).resize((152, 180), Image.Resampling.BICUBIC, box=view)
        frame[:, left : left + 152] = np.asarray(image)
        corners = (np.array([[x1, y1], [x2, y2]]) - origin) * zoom + [left, 0]
        boxes.append([*np.float32(corners).ravel().tolist(), float(np.float32(0.99 - 0.001 * number - left / 1e4))])
    return frame, boxes


def write_clip(path: Path) -> dict[str, list]:
    """The clip as H.264; gives frame number -> boxes for every STEP-th frame."""
    asked = {}
    with av.open(str(path), "w", format="mp4") as container:
        # a fixed quantizer, as with crf libx264 gives other bytes each time, even with one thread
        stream = container.add_stream("libx264", rate=12, options={"preset": "veryfast", "qp": "20", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for number in range(FRAMES):
            frame, boxes = frame_of_clip(number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            if number % STEP == 0:
                asked[str(number)] = boxes
        container.mux(stream.encode(None))
    return asked


class GivenBoxes:
    """In place of the face detector: the boxes of each frame that comes, in order."""

    def __init__(self, boxes: dict[str, list]) -> None:
        self.coming = iter(boxes.values())

    def __call__(self, frames: torch.Tensor) -> list:
        return [next(self.coming) for _ in frames]


def landmark_state(crops: np.ndarray) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """Stand-in weights of mobilefacenet whose last norm is set so that they place the template, a little moved.

    Landmarks of mere stand-ins span no face, and features of such faces mean nothing.

    Returns:
        The state, and what in it is not of `fill`.
    """
    net = reference.MobileFaceNet([112, 112], 136, device="cpu")
    _, _, landmarks = cut("astronaut")
    state = state_of(filled(net))
    spread = float(net(unit(crops))[0].std())
    set_here = {
        "output_layer.bn.weight": (state["output_layer.bn.weight"] * (0.012 / spread)).numpy(),
        "output_layer.bn.bias": landmarks,
    }
    return state | {key: torch.from_numpy(value) for key, value in set_here.items()}, set_here


def answer_detect(out: Path, crops: np.ndarray) -> None:
    """detect.parquet: `detect()` on the clip; boxes given, everything else computed."""
    (out / "videos").mkdir(exist_ok=True)
    asked = {"video": CLIP, "step": STEP, "boxes": write_clip(out / "videos" / CLIP)}
    (out / "detect_boxes.json").write_text(json.dumps(asked) + "\n")
    state, set_here = landmark_state(crops)
    np.savez_compressed(out / "detect_mobilefacenet.npz", **set_here)
    arcface = reference.ArcFace().net
    with tempfile.TemporaryDirectory() as folder:
        hub = Hub(Path(folder))
        hub.put("retinaface_r34", "model.safetensors", lambda f: save_file(state_of(RetinaFace()), f))
        name = "mobilefacenet_model_best.pth.tar"
        hub.put("mobilefacenet", name, lambda f: torch.save({"state_dict": state}, f))
        hub.put("arcface_r50", "arcface_r50.safetensors", lambda f: save_file(state_of(arcface), f))
        hub.put("l2cs", "l2cs_gaze360_resnet50.safetensors", lambda f: save_file(state_of(l2cs_resnet50()), f))
        hub.put("resmasknet", "config.json", lambda f: f.write_text('{"in_channels": 3, "num_classes": 7}'))
        name = "ResMaskNet_Z_resmasking_dropout1_rot30.pth"
        hub.put("resmasknet", name, lambda f: torch.save({"net": state_of(resmasknet())}, f))
        hub.put("xgb_au", "xgb_au_classifier_v2.skops", lambda f: f.write_bytes((out / "xgb_au.skops").read_bytes()))
        hub.serve()
        detector = reference.Detectorv1(device="cpu")  # the pose network is filled already, by answer_pose
    detector.facepose_detector = GivenBoxes(asked["boxes"])
    seen = record_hog_inputs()
    path = out / "videos" / CLIP
    table = detector.detect(str(path), data_type="video", batch_size=3, skip_frames=STEP, progress_bar=False)
    table = pd.DataFrame(table)
    table["input"] = path.name
    check_repeatable(detector.au_detector, *map(torch.cat, zip(*seen, strict=True)))
    table.to_parquet(out / "detect.parquet", compression="zstd", index=False)


def record_hog_inputs() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A list that gets the crops and landmarks whose features py-feat takes from here on."""
    seen, describe = [], reference.extract_hog_features_batched

    def recorded(crops: torch.Tensor, landmarks: torch.Tensor, **options):
        lit = crops.flatten(1).any(1)  # the crop of a frame without a face is black
        seen.append((crops[lit].clone(), landmarks[lit].clone()))
        return describe(crops, landmarks, **options)

    reference.extract_hog_features_batched = recorded
    return seen


def check_repeatable(classifiers: reference.XGBClassifier, crops: torch.Tensor, landmarks: torch.Tensor) -> None:
    """Stop unless py-feat's action units stay the same when rounding moves crops and landmarks.

    Trees fitted to drawn labels jump by up to 0.1 where a feature crosses one of their thresholds. A face that is this
    close to one has another answer on another CPU.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(values: torch.Tensor) -> torch.Tensor:
        return 2 * torch.rand(values.shape, generator=generator) - 1

    def answers(distance: float) -> np.ndarray:
        """Of crops moved by up to `distance` and landmarks by a tenth of it, both of 0 to 1."""
        moved = crops + distance * noise(crops), landmarks + distance / 10 * noise(landmarks)
        features, aligned = extract_hog_features_batched(*moved, hog_layer=hog_layer())
        return classifiers.detect_au(frame=features, landmarks=[np.stack([np.asarray(points) for points in aligned])])

    expected = answers(0.0)
    apart = max(float(np.abs(answers(3e-6) - expected).max()) for _ in range(16))
    if apart > 1e-4:
        raise SystemExit(f"rounding moves an action unit of the clip by {apart:.2g}: take another CLASSIFIERS_SEED")


class Hub:
    """A folder in place of the hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, repo: str, name: str, write) -> None:
        path = self.folder / repo / name
        path.parent.mkdir(exist_ok=True)
        write(path)

    def serve(self) -> None:
        def local(repo_id: str, filename: str, *_, **__) -> str:
            return str(self.folder / repo_id.removeprefix("py-feat/") / filename)

        huggingface_hub.hf_hub_download = reference.hf_hub_download = local
        reference.hf_hub_download_with_fallback = feat.utils.hf_hub_download_with_fallback = local


def write_origin(out: Path) -> None:
    """Versions and machine that the answers come from."""
    packages = ("py-feat", "torch", "torchvision", "torchcodec", "numpy", "scipy", "scikit-learn", "scikit-image")
    packages += ("xgboost", "skops", "pandas", "matplotlib", "av")
    origin = {
        "made_by": "tests/parity/make_reference.py",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "cpu": {"machine": platform.machine(), "capability": torch.backends.cpu.get_cpu_capability()},
        "pictures": PICTURES,
    }
    (out / "origin.json").write_text(json.dumps(origin, indent=2) + "\n")
    if out.resolve() != STANDIN.parent:
        shutil.copy(STANDIN, out)


def main(folder: str) -> None:
    torch.manual_seed(0)  # of initial weights that are replaced; no answer depends on it
    torch.set_num_threads(1)
    out = Path(folder)
    (out / "keys").mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        crops, boxes = answer_crops(out)
        crops224 = np.stack([cut(name)[1] for name in PICTURES])
        answer_landmarks(out, crops, boxes, crops224)
        answer_embeddings_gaze_emotions(out, crops, crops224)
        answer_retinaface(out)
        answer_img2pose(out)
        answer_pose(out)
        answer_action_units(out)
        answer_identities(out)
        answer_detect(out, crops)
    write_origin(out)


if __name__ == "__main__":
    main(sys.argv[1])
