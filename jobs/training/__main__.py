"""Trains the bundle `tiny` (docs/tiny.md): from random weights, with the small published networks as teachers.

    python -m jobs.training all SHARED WORK              # every step below, in this order
    python -m jobs.training prepare SHARED WORK          # scenes, faces, and the teachers' outputs
    python -m jobs.training face SHARED WORK --minutes 20
    python -m jobs.training traits SHARED WORK --minutes 12
    python -m jobs.training gaze SHARED WORK --minutes 6
    python -m jobs.training examples SHARED WORK         # blended faces and the identity teacher's maps of them
    python -m jobs.training identity SHARED WORK --minutes 20
    python -m jobs.training pack SHARED WORK             # half precision, into actors/tiny
    python -m jobs.training evaluate SHARED WORK         # the figures of the card, of the packed weights

SHARED holds `models` (the teachers) and `data` (pictures and videos); nothing of it enters the package. WORK takes
what is computed once and the weights in the making: a training that is cut short leaves its last ones there.
"""

import argparse
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from actors.models.retinaface import new_retinaface_mnet025
from actors.models.tiny import (
    TinyIdentity,
    TinyTraits,
    build_tiny_emotions,
    build_tiny_face,
    build_tiny_gaze,
    build_tiny_identity,
    build_tiny_landmarks,
    build_tiny_pose,
)
from actors.models.tiny_gaze import TinyGaze
from jobs.training import evaluate as measure
from jobs.training import gaze as line_of_sight
from jobs.training.clips import measure_clips
from jobs.training.detector import Pictures, train_detector
from jobs.training.faces import Faces, collect_faces
from jobs.training.identity import make_examples, tap_identity, train_identity
from jobs.training.material import SAME_PERSON, read_scenes
from jobs.training.teachers import Teachers, load_teachers
from jobs.training.traits import train_traits

PACKED = Path(__file__).resolve().parents[2] / "actors" / "tiny"
NETS: dict[str, Callable[[], nn.Module]] = {
    "face": new_retinaface_mnet025,
    "traits": TinyTraits,
    "gaze": TinyGaze,
    "identity": TinyIdentity,
}
EVERY = 5  # of the videos' frames
EXAMPLES = 2000


def main() -> None:
    """Run one step, or all."""
    parser = argparse.ArgumentParser(
        "python -m jobs.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["all", *STEPS])
    parser.add_argument("shared", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=15, help="of each training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, help="examples per step; default 4, 48, 16 and 32")
    parser.add_argument("--resume", action="store_true", help="go on from the weights in WORK")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    options.work.mkdir(parents=True, exist_ok=True)
    for name in STEPS if options.step == "all" else [options.step]:
        STEPS[name](options)


def prepare(options: argparse.Namespace) -> None:
    """Scenes, the faces that the teacher finds in them, and what the teachers say of the faces."""
    teachers = load_teachers(options.shared / "models")
    scenes = list(read_scenes(options.shared / "data", EVERY))
    with torch.inference_mode():
        found = [measure.find(teachers.face, scene.rgb_HWC, 0.3) for scene in scenes]
    faces = collect_faces(
        ((s, f.boxes_N4.numpy(), f.scores_N.numpy(), f.points_N52.numpy()) for s, f in zip(scenes, found, strict=True)),
        teachers,
    )
    dump(options.work / "scenes.pkl", (scenes, found))
    dump(options.work / "faces.pkl", drop_lookalikes(faces))
    log(f"{len(scenes)} scenes, {len(faces.names)} faces, {int(faces.held.sum())} of them kept out")


def drop_lookalikes(faces: Faces) -> Faces:
    """The faces without those for training that look like one that is kept out."""
    cosine = faces.embeddings_ND @ faces.embeddings_ND[faces.held].T
    good = faces.held | (cosine.max(1).values < SAME_PERSON).numpy()
    log(f"dropped as lookalikes: {sorted({faces.names[row].split('#')[0] for row in np.flatnonzero(~good)})}")
    fields: dict[str, Any] = {
        name: [value[row] for row in np.flatnonzero(good)] if isinstance(value, list) else value[good]
        for name, value in vars(faces).items()
    }
    return Faces(**fields)


def face(options: argparse.Namespace) -> None:
    """Train the detector; two thirds of the time for its blocks alone."""
    scenes, found = read_cache(options.work / "scenes.pkl")
    rows = [row for row, scene in enumerate(scenes) if not scene.held]
    boxes = [found[row].boxes_N4[found[row].scores_N > 0.6].numpy() for row in rows]
    pictures = Pictures([scenes[row] for row in rows], boxes, seed=1)
    net, save = start("face", options)
    teacher = load_teachers(options.shared / "models").face
    seconds = 60 * options.minutes
    blocks = 0.0 if options.resume else seconds * 2 / 3
    train_detector(net, teacher, pictures, (blocks, seconds - blocks), options.batch or 4, save, log)  # type: ignore[arg-type]


def traits(options: argparse.Namespace) -> None:
    """Train landmarks, pose and emotions."""
    net, save = start("traits", options)
    faces = read_cache(options.work / "faces.pkl")
    rate = 2e-3 if options.resume else 3e-3
    train_traits(net, faces, 60 * options.minutes, options.batch or 48, save, log, rate)  # type: ignore[arg-type]


def gaze(options: argparse.Namespace) -> None:
    """Train gaze; most of the time for its layers alone."""
    net, save = start("gaze", options)
    trained = TinyTraits()
    trained.load_state_dict(load_file(options.work / "traits.safetensors"))
    teacher = load_teachers(options.shared / "models").gaze
    line_of_sight.tap_gaze(teacher)
    seconds = 60 * options.minutes
    layers = seconds * 0.7
    line_of_sight.train_gaze(
        net,  # type: ignore[arg-type]
        teacher,
        trained.eval(),
        read_cache(options.work / "faces.pkl"),
        (layers, (seconds - layers) / 3, (seconds - layers) * 2 / 3),
        options.batch or 16,
        save,
        log,
    )


def examples(options: argparse.Namespace) -> None:
    """Blended faces, and the identity teacher's maps of them."""
    teacher = load_teachers(options.shared / "models").identity
    tap_identity(teacher)
    made = make_examples(read_cache(options.work / "faces.pkl"), teacher, EXAMPLES, seed=1)
    dump(options.work / "examples.pkl", made)


def identity(options: argparse.Namespace) -> None:
    """Train the embedding."""
    net, save = start("identity", options)
    teacher = load_teachers(options.shared / "models").identity
    made, faces = read_cache(options.work / "examples.pkl"), read_cache(options.work / "faces.pkl")
    rate = 1.5e-3 if options.resume else 4e-3
    train_identity(net, made, faces, teacher, 60 * options.minutes, options.batch or 32, save, log, rate)  # type: ignore[arg-type]


def pack(options: argparse.Namespace) -> None:
    """Put the weights into the package, in half precision."""
    PACKED.mkdir(exist_ok=True)
    for name in NETS:
        state = load_file(options.work / f"{name}.safetensors")
        half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        save_file(half, PACKED / f"{name}.safetensors")
    log(f"{sum(path.stat().st_size for path in PACKED.iterdir()) / 1e6:.2f} MB in {PACKED}")


@torch.inference_mode()
def evaluate(options: argparse.Namespace) -> None:
    """Print the figures of the card."""
    tiny, data = packed_nets(), options.shared / "data"
    teachers = load_teachers(options.shared / "models")
    scenes, found = read_cache(options.work / "scenes.pkl")
    faces = read_cache(options.work / "faces.pkl")
    held = [
        (scene, teacher, measure.find(tiny.face, scene.rgb_HWC))
        for scene, teacher in zip(scenes, found, strict=True)
        if scene.held
    ]
    threshold = tiny.face.score_threshold
    empty, wrong = measure.scenes_without_faces(held, threshold)
    figures: dict[str, Any] = {
        "faces": measure.measure_faces([pair[1:] for pair in held], threshold),
        "scenes without a face": {"scenes": empty, "with a find": wrong},
        "dlib": measure.measure_dlib(tiny, teachers, data),
        "traits": measure.measure_traits(tiny, faces),
        "embeddings": measure.measure_pairs(measure.embed_pictures(tiny.embeddings, faces), data),
        "the teacher's embeddings": measure.measure_pairs(
            measure.embed_pictures(_teacher_embeds(teachers), faces), data
        ),
        "clips": measure_clips(data),
    }
    print(json.dumps(figures, indent=1))


def _teacher_embeds(teachers: Teachers) -> Any:
    return lambda crops_NCHW: teachers.identity((crops_NCHW - 0.5) / 0.5)


def packed_nets() -> measure.Tiny:
    """The networks of the package."""
    files = {name: {"weights": PACKED / f"{name}.safetensors"} for name in NETS}
    return measure.Tiny(
        face=build_tiny_face(files["face"]),
        landmarks=build_tiny_landmarks(files["traits"]),
        pose=build_tiny_pose(files["traits"]),
        emotions=build_tiny_emotions(files["traits"]),
        gaze=build_tiny_gaze({"weights": PACKED / "gaze.safetensors", "traits": PACKED / "traits.safetensors"}),
        embeddings=build_tiny_identity(files["identity"]),
    )


def start(name: str, options: argparse.Namespace) -> tuple[nn.Module, Callable[[], None]]:
    """A network with random weights, or those of the last training, and what saves its weights."""
    net, path = NETS[name](), options.work / f"{name}.safetensors"
    if options.resume:
        net.load_state_dict(load_file(path))

    def save() -> None:
        written = path.with_suffix(".part")
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, written)
        written.replace(path)  # a training that is killed leaves whole files only

    return net, save


def dump(path: Path, value: object) -> None:
    """Keep a result of our own in WORK."""
    with path.open("wb") as file:
        pickle.dump(value, file, protocol=pickle.HIGHEST_PROTOCOL)


def read_cache(path: Path) -> Any:
    """What `dump` kept."""
    with path.open("rb") as file:
        return pickle.load(file)


def log(line: str) -> None:
    """Print a line with the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


STEPS: dict[str, Callable[[argparse.Namespace], None]] = {
    "prepare": prepare,
    "face": face,
    "traits": traits,
    "gaze": gaze,
    "examples": examples,
    "identity": identity,
    "pack": pack,
    "evaluate": evaluate,
}

if __name__ == "__main__":
    main()
