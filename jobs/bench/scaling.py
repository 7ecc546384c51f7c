"""Scaling of speed: the actor over frame sizes and faces, the pipeline over clips and actors."""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import typer

from actors.weights.bundles import Bundle
from jobs import annotate as job
from jobs.bench.check import BenchError
from jobs.bench.flow import measure_pipeline
from jobs.bench.result import FramesOption, JsonOption, RoundsOption, Speed, StandinsOption
from jobs.bench.speed import measure_actor
from jobs.options import BundleOption, ConfigOption, SetOption, exit_on_error
from pipeline.config.models import Config, PoolConfig


def scaling(
    bundle: StandinsOption,
    sizes: Annotated[str, typer.Option(help="Heights of 16:9 frames, with commas.")] = "360,720,1080,2160",
    faces: Annotated[str, typer.Option(help="Faces per frame, with commas.")] = "0,1,5,20",
    frames: FramesOption = 16,
    rounds: RoundsOption = 1,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """The actor alone over frame sizes and faces per frame; each size with one face, the first with each number.

    Example: python -m jobs.bench scaling --bundle standins/bundle.yaml --sizes 360,1080 --faces 1,5
    """
    with exit_on_error(), tempfile.TemporaryDirectory() as folder:
        chosen = job.settings(config, assignments, None)
        heights, counts = ([int(value) for value in text.split(",")] for text in (sizes, faces))
        cases = [(heights[0], count) for count in counts] + [(height, 1) for height in heights[1:]]
        models = job.resolve(bundle, chosen)
        rows = []
        for height, count in cases:
            video = Path(folder) / f"{height}.mp4"
            _write_video(video, height, frames)
            speed = measure_actor(str(video), _with_faces(models, count), chosen, frames, rounds)
            rows.append(_case(speed, as_json, height=height, faces_per_frame=count))
        if as_json:
            print(json.dumps(rows))


def corpus(
    video: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A video file.")],
    bundle: BundleOption = "tiny",
    clips: Annotated[str, typer.Option(help="Numbers of clips, with commas.")] = "1,10,100",
    actors: Annotated[str, typer.Option(help="Numbers of actors, with commas; they share the cores.")] = "1",
    rounds: RoundsOption = 1,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """The whole job over corpora of many copies of a clip, and over numbers of actors.

    Each number of clips with the first number of actors, and the last number of clips with each number of actors.

    Example: python -m jobs.bench corpus --video clip.mp4 --bundle tiny --clips 1,20,100 --actors 1,2
    """
    with exit_on_error(), tempfile.TemporaryDirectory() as folder:
        chosen = job.settings(config, assignments, None)
        models = job.resolve(bundle, chosen)
        counts, sizes = ([int(value) for value in text.split(",")] for text in (clips, actors))
        cases = [(count, sizes[0]) for count in counts] + [(counts[-1], size) for size in sizes[1:]]
        rows = []
        for count, size in cases:
            copies = Path(folder) / str(count)
            if not copies.exists():
                _copy(video, copies, count)
            speed = measure_pipeline(str(copies), models, _with_actors(chosen, size), rounds)
            rows.append(_case(speed, as_json, clips=count, actors=size))
        if as_json:
            print(json.dumps(rows))


def _copy(video: Path, folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        shutil.copyfile(video, folder / f"{number:06d}{video.suffix}")


def _case(speed: Speed, as_json: bool, **case: int) -> dict[str, Any]:
    """The row of one case; people are told of it at once."""
    if not as_json:
        words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in case.items())
        job.console.print(f"{words}: {speed.frames_per_s:.3f} frames/s ({speed.frames} frames)")
    return {**case, **asdict(speed)}


def _with_actors(config: Config, size: int) -> Config:
    """So many actors, which share the cores and reserve half of them: the others are for decoding."""
    cores = os.cpu_count() or 1
    pool = PoolConfig(size=size, cpus=cores / 2 / size, threads=max(1, cores // size))
    return config.model_copy(update={"actors": config.actors.model_copy(update={"pools": (pool,)})})


def _with_faces(bundle: Bundle, count: int) -> Bundle:
    face = bundle.models[0]
    if "faces" not in face.parameters:
        raise BenchError(f"the face model of {bundle.name} has no parameter 'faces'; take a bundle of `standins`")
    parameters = {**face.parameters, "faces": count}
    return replace(bundle, models=(replace(face, parameters=parameters), *bundle.models[1:]))


def _write_video(path: Path, height: int, frames: int) -> None:
    """Noise that moves: what it shows is of no account."""
    width = height * 16 // 9 // 2 * 2
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    picture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(picture, i, 1)), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
