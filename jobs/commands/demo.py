"""`faceatlas demo`: a generated corpus, so that the first run needs no data and no network.

The pictures are two public-domain portraits that ship inside scikit-image (`astronaut`) and matplotlib
(`grace_hopper`). They become clips with pans, zooms, flips, a cut, changing light and two people side by side, a clip
without a face and a corrupt file, in two tar shards.
"""

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np

import pipeline
from jobs.commands.report import write_report
from pipeline.config.models import Config
from pipeline.errors import ConfigError
from pipeline.runs.model import Report
from pipeline.storage import fs as files

_WIDTH, _HEIGHT, _FPS, _FRAMES = 640, 360, 24, 36

Picture = Callable[[float], np.ndarray]  # progress of the clip 0..1 -> uint8 RGB frame


def run_demo(folder: str, bundle: str, config: Config) -> bool:
    """Make the corpus in `folder`/corpus, annotate it into `folder`/tables, write `folder`/report.html.

    Returns:
        Whether the totals add up.

    Raises:
        ConfigError: the packages that hold the portraits are not installed.
    """
    from jobs.annotate import console, run  # the command line imports both modules

    place = folder.rstrip("/")
    corpus, out, page = (f"{place}/{name}" for name in ("corpus", "tables", "report.html"))
    make_corpus(corpus, config.storage.options)
    console.print(f"generated a corpus of two tar shards in {corpus}")
    report = run(corpus, out, bundle, config)
    say_what_was_found(out, report, config.storage.options)
    write_report(out, page, options=config.storage.options)
    console.print(f"report: {page}; open it in a browser", markup=False)
    return report.complete


def say_what_was_found(out: str, report: Report, options: Mapping[str, Any] | None = None) -> None:
    """Print clips, faces, people and quarantine, and three lines that query the tables."""
    from jobs.annotate import console

    faces = pipeline.read_table(out, "faces", ["clip_id"], options).num_rows
    people = pipeline.read_table(out, "identities", ["clips", "faces"], options)
    people = people.sort_by([("faces", "descending")]).to_pylist()
    console.print(f"found: {report.wanted} clips, {faces} faces, {len(people)} people", highlight=False)
    for number, person in enumerate(people, 1):
        console.print(f"  person {number}: {person['faces']} faces in {person['clips']} clips", highlight=False)
    for row in pipeline.read_table(out, "quarantine", storage_options=options).to_pylist():
        console.print(f"  quarantined {row['member']}: {row['message']}", markup=False, highlight=False)
    console.print(f"tables: {out}; read them with:", highlight=False)
    query = f"import faceatlas; print(faceatlas.read_table('{out}', '{{}}').to_pandas())"
    for table in ("clips", "identities", "emotions"):
        print(f'  python -c "{query.format(table)}"')  # not through the console, which would break the line


def make_corpus(folder: str, options: Mapping[str, Any] | None = None) -> None:
    """Write two tar shards with eight clips, one of them without a face and one corrupt; the bytes are reproducible.

    Args:
        folder: path or any fsspec URI; it is made, on S3 its bucket too.
        options: for fsspec.
    """
    fs, path = files.open_fs(files.normalise_uri(folder), options)
    fs.makedirs(path, exist_ok=True)
    members = list(_members())
    half = (len(members) + 1) // 2
    for number, part in enumerate((members[:half], members[half:])):
        shard = io.BytesIO()
        with tarfile.open(fileobj=shard, mode="w") as tar:
            for name, data in part:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        fs.pipe_file(f"{path}/shard-{number:05d}.tar", shard.getvalue())


def _members() -> Iterator[tuple[str, bytes]]:
    astronaut, hopper = portraits()
    first, second = (_view(picture) for picture in (astronaut, hopper))
    yield "astronaut_pan.mp4", encode(lambda t: first(0.35 + 0.15 * t, 0.25, 0.8))
    yield "hopper_zoom.mp4", encode(lambda t: second(0.5, 0.35, 1.0 - 0.15 * t))
    yield "astronaut_flip_light.mp4", encode(lambda t: _lit(first(0.42, 0.25, 0.9)[:, ::-1], 0.6 + 0.7 * t))
    yield "hopper_pan.mp4", encode(lambda t: second(0.4 + 0.2 * t, 0.4, 0.9))
    yield "two_people.mp4", encode(lambda t: _beside(first(0.44, 0.25, 0.9 - 0.1 * t), second(0.5, 0.35, 1.0)))
    yield "cut.mp4", encode(lambda t: first(0.42, 0.25, 1.0) if t < 0.5 else second(0.5, 0.4, 1.0))
    yield "nobody.mp4", encode(_waves)
    yield "corrupt.mp4", b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 16


def portraits() -> tuple[np.ndarray, np.ndarray]:
    """The two public-domain portraits, uint8 RGB (H, W, 3): scikit-image's astronaut, matplotlib's Grace Hopper.

    Raises:
        ConfigError: the packages that hold them are not installed.
    """
    try:
        from matplotlib import cbook
        from PIL import Image
        from skimage.data import astronaut
    except ImportError as error:
        raise ConfigError(
            f"the demo takes its pictures out of other packages ({error}): pip install 'faceatlas[demo]'"
        ) from error
    with Image.open(Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))) as image:
        hopper = np.asarray(image.convert("RGB"))
    return astronaut(), hopper


def _view(picture: np.ndarray) -> Callable[[float, float, float], np.ndarray]:
    """A camera on a picture: center and width of its view (fractions of the picture) -> frame of the clip's size."""
    from PIL import Image

    image = Image.fromarray(picture)

    def look(x: float, y: float, width: float) -> np.ndarray:
        w = picture.shape[1] * width
        h = w * _HEIGHT / _WIDTH
        left, top = picture.shape[1] * x - w / 2, picture.shape[0] * y - h / 2
        # the camera stays on the picture
        left = min(max(left, 0), picture.shape[1] - w)
        top = min(max(top, 0), picture.shape[0] - h)
        box = (left, top, left + w, top + h)
        return np.asarray(image.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC, box=box))

    return look


def _lit(frame: np.ndarray, gain: float) -> np.ndarray:
    return np.clip(frame.astype(np.float32) * gain, 0, 255).astype(np.uint8)


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    quarter = _WIDTH // 4
    return np.concatenate([left[:, quarter:-quarter], right[:, quarter:-quarter]], axis=1)


def _waves(t: float) -> np.ndarray:
    y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    value = 127 + 60 * np.sin(x / 40 + 6 * t) * np.cos(y / 30 - 4 * t)
    return np.stack([value, 0.8 * value, 255 - value], axis=-1).astype(np.uint8)


def encode(picture: Picture) -> bytes:
    """An H.264 clip, as the bytes of an MP4 file; the same pictures give the same bytes."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # a fixed quantizer: with crf, libx264 gives other bytes now and then, even with one thread
        stream = container.add_stream("libx264", rate=_FPS, options={"preset": "veryfast", "qp": "20", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        for i in range(_FRAMES):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(i / (_FRAMES - 1))), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
