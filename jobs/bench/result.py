"""Results of measurements, and the options that the benches share."""

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from actors.weights.bundles import Bundle
from jobs import annotate as job
from jobs.options import BundleOption, ConfigOption, SetOption, exit_on_error
from pipeline.config.models import Config

VideoOption = Annotated[str, typer.Option(help="Video, folder or manifest to measure on.")]
StandinsOption = Annotated[str, typer.Option(help="bundle.yaml of `python -m jobs.bench standins`.")]
FramesOption = Annotated[int, typer.Option(min=1, help="Frames to measure on; the video is repeated if it is shorter.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


@dataclass(frozen=True)
class Speed:
    """One measurement.

    Attributes:
        what: the command: decode, models, actor, loop, pipeline, ...
        frames, faces: that went through.
        seconds: median over the rounds.
        frames_per_s: frames / seconds.
        video_hours_per_day: at 25 frames/s, on this machine.
        details: figures of this kind of measurement.
        setting: hardware, versions and options that it holds for.
    """

    what: str
    frames: int
    faces: int
    seconds: float
    frames_per_s: float
    video_hours_per_day: float
    details: dict[str, Any] = field(default_factory=dict)
    setting: dict[str, Any] = field(default_factory=dict)


def measured(what: str, frames: int, faces: int, seconds: Sequence[float], **details: Any) -> Speed:
    """A measurement out of the seconds of its rounds."""
    median = float(np.median(seconds))
    rate = frames / median
    details |= {"rounds": [round(s, 4) for s in seconds]}
    return Speed(what, frames, faces, round(median, 4), round(rate, 3), round(rate / 25 * 24, 1), details, setting())


def setting() -> dict[str, Any]:
    """What a figure must be read with."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else _processor(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def say(speed: Speed, as_json: bool) -> None:
    """Print a measurement, for machines or for people."""
    if as_json:
        print(json.dumps(asdict(speed)))
        return
    job.console.print(
        f"{speed.what}: {speed.frames_per_s:.2f} frames/s ({speed.frames} frames, {speed.faces} faces, "
        f"{speed.seconds:.2f} s); {speed.video_hours_per_day:g} video-hours a day at 25 frames/s"
    )
    for name, value in {**speed.details, **speed.setting}.items():
        if isinstance(value, dict) and value and isinstance(next(iter(value.values())), dict):
            for key, row in islice(value.items(), 50):
                job.console.print(f"  {key}: " + ", ".join(f"{k} {v}" for k, v in row.items()), markup=False)
        else:
            job.console.print(f"  {name}: {value}", markup=False)


def command_of(
    name: str, measure: Callable[[str, Bundle, Config, int, int], Speed], frames: int, rounds: int, about: str
) -> Callable[..., None]:
    """A command that measures on so many frames of a video.

    Args:
        name: of the command.
        measure: gets video, bundle, configuration, frames and rounds.
        frames: to measure on, unless the command line says so.
        rounds: so many, unless the command line says so.
        about: the help text.
    """

    def command(
        video: VideoOption,
        bundle: BundleOption = "tiny",
        frames: FramesOption = frames,
        rounds: RoundsOption = rounds,
        config: ConfigOption = None,
        assignments: SetOption = None,
        as_json: JsonOption = False,
    ) -> None:
        _measure(measure, video, bundle, (frames, rounds), config, assignments, as_json)

    command.__name__, command.__doc__ = name, about
    return command


def whole_video_command_of(
    name: str, measure: Callable[[str, Bundle, Config, int], Speed], about: str
) -> Callable[..., None]:
    """As `command_of`, for what is measured on all frames of the video."""

    def command(
        video: VideoOption,
        bundle: BundleOption = "tiny",
        rounds: RoundsOption = 1,
        config: ConfigOption = None,
        assignments: SetOption = None,
        as_json: JsonOption = False,
    ) -> None:
        _measure(measure, video, bundle, (rounds,), config, assignments, as_json)

    command.__name__, command.__doc__ = name, about
    return command


def _measure(
    measure: Callable[..., Speed],
    video: str,
    bundle: str,
    numbers: Sequence[int],
    config: Path | None,
    assignments: list[str] | None,
    as_json: bool,
) -> None:
    """Carry out a command: its options become what `measure` takes, and its measurement is printed."""
    with exit_on_error():
        chosen = job.settings(config, assignments, None)
        say(measure(video, job.resolve(bundle, chosen), chosen, *numbers), as_json)
