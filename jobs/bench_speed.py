"""Speed of decoding, of each model, of the actor, of a plain loop without Ray, and of the whole pipeline.

Every measurement that runs models first checks its outputs against the plain way (float32, nothing folded, one frame
and one face at a time) and refuses to print a speed for wrong numbers.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from actors.annotator import Annotator
from actors.bundles import Bundle
from jobs import annotate as job
from jobs.bench_check import BenchError, check, count_faces, decoded, make_actor, plan_of
from jobs.options import BundleOption, ConfigOption, SetOption, exit_on_error
from pipeline import chunks
from pipeline.config import Config

VideoOption = Annotated[str, typer.Option(help="Video, folder or manifest to measure on.")]
FramesOption = Annotated[int, typer.Option(min=1, help="Frames to measure on; the video is repeated if it is shorter.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


@dataclass(frozen=True)
class Speed:
    """One measurement.

    Attributes:
        what: decode, model, actor, loop or pipeline.
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


# -- measurements -----------------------------------------------------------------------------------------------------


def measure_decode(video: str, bundle: Bundle, config: Config, frames: int, rounds: int) -> Speed:
    """Decoding alone, one task."""
    with tempfile.TemporaryDirectory() as out:
        work, flow_job = plan_of(video, bundle, config, out).work, chunks.Job(out, config, bundle.versions)
        seconds = []
        for _ in range(rounds):
            begun = time.perf_counter()
            count = sum(len(chunk["frames"][0]) for chunk in decoded(work, flow_job, frames))
            seconds.append(time.perf_counter() - begun)
    return measured("decode", count, 0, seconds)


def measure_actor(video: str, bundle: Bundle, config: Config, frames: int, rounds: int) -> Speed:
    """The actor alone, its frames in memory."""
    held, actor = _held_chunks(video, bundle, config, frames)
    deviations = check(actor, bundle, config, held[0])
    actor(held[0])
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        answers = [actor(chunk) for chunk in held]
        seconds.append(time.perf_counter() - begun)
    count = sum(len(chunk["frames"][0]) for chunk in held)
    return measured("actor", count, count_faces(answers), seconds, deviations=deviations)


def measure_models(video: str, bundle: Bundle, config: Config, frames: int, rounds: int) -> Speed:
    """The actor with a clock around each model: seconds, operations, and their share of the device's matmul peak."""
    held, actor = _held_chunks(video, bundle, config, frames)
    deviations = check(actor, bundle, config, held[0])
    peak = matmul_peak(actor.device)
    flops = _count_flops(actor, bundle, held[0])
    clocks = {slot: Clock(net, actor.device) for slot, net in actor.nets.items()}
    actor.nets.update(clocks)
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        answers = [actor(chunk) for chunk in held]
        seconds.append(time.perf_counter() - begun)
    count = sum(len(chunk["frames"][0]) for chunk in held)
    table = {}
    for model in bundle.models:
        spent = clocks[model.slot].seconds / rounds
        gflop = flops[model.slot] / 1e9
        rate = gflop * count / spent if spent else 0.0
        table[model.slot] = {
            "model": model.name,
            "ms_per_frame": round(1e3 * spent / count, 3),
            "gflop_per_frame": round(gflop, 3),
            "gflop_per_s": round(rate, 1),
            "share_of_peak": round(rate * 1e9 / peak, 3),
        }
    other = float(np.median(seconds)) - sum(clock.seconds for clock in clocks.values()) / rounds
    return measured(
        "models",
        count,
        count_faces(answers),
        seconds,
        models=table,
        other_ms_per_frame=round(1e3 * other / count, 3),
        matmul_peak_gflop_per_s=round(peak / 1e9, 1),
        deviations=deviations,
    )


def measure_loop(video: str, bundle: Bundle, config: Config, frames: int | None, rounds: int) -> Speed:
    """Decode, annotate and write in one process, one after the other, without Ray."""
    seconds = []
    begun = time.perf_counter()
    actor = make_actor(bundle, config)
    load = time.perf_counter() - begun
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as out:
            work, flow_job = plan_of(video, bundle, config, out).work, chunks.Job(out, config, bundle.versions)
            begun = time.perf_counter()
            answers = [actor(chunk) for chunk in decoded(work, flow_job, frames)]
            for low in range(0, len(answers), config.store.chunks_per_file):
                chunks.write_chunks(pa.concat_tables(answers[low : low + config.store.chunks_per_file]), flow_job)
            seconds.append(time.perf_counter() - begun)
            deviations = check(actor, bundle, config, next(decoded(work, flow_job)))
    count = sum(len(chunk["frames"][0]) for chunk in answers)
    return measured(
        "loop", count, count_faces(answers), seconds, deviations=deviations, load_models_seconds=round(load, 2)
    )


def measure_pipeline(video: str, bundle: str, config: Config, rounds: int) -> Speed:
    """The whole job with Ray, start of Ray and of the actors included and also named apart."""
    from jobs import cluster
    from pipeline import annotate as flow
    from pipeline.sources import read_corpus

    models = job.resolve(bundle, config)
    corpus = read_corpus(video, config)
    seconds, stages = [], []
    begun = time.perf_counter()
    cluster.start_ray(config)
    start = time.perf_counter() - begun
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as out:
            report = flow.annotate(
                corpus,
                out,
                job.wanted_of(models),
                make_stages=lambda: cluster.make_stages(models, config),
                start_ray=lambda: None,
                config=config,
                progress=lambda tally: None,  # noqa: ARG005
            )
        if not report.in_order:
            raise BenchError("the run did not end in order")
        seconds.append(report.seconds["annotate"])
        stages.append(dict(report.seconds))
    with tempfile.TemporaryDirectory() as out:
        work, flow_job = plan_of(video, models, config, out).work, chunks.Job(out, config, models.versions)
        deviations = check(make_actor(models, config), models, config, next(decoded(work, flow_job)))
    details = {"start_ray_seconds": round(start, 2), "stages": stages, "deviations": deviations}
    return measured("pipeline", report.frames, report.faces, seconds, **details)


def _held_chunks(video: str, bundle: Bundle, config: Config, frames: int) -> tuple[list[pa.Table], Annotator]:
    with tempfile.TemporaryDirectory() as out:
        work, flow_job = plan_of(video, bundle, config, out).work, chunks.Job(out, config, bundle.versions)
        held = list(decoded(work, flow_job, frames))
    if not held:
        raise BenchError(f"{video} holds no frame to measure on")
    return held, make_actor(bundle, config)


class Clock:
    """A model with a clock around it."""

    def __init__(self, net: Any, device: torch.device) -> None:
        self.net, self.device, self.seconds = net, device, 0.0

    def detect(self, frames_BCHW: torch.Tensor) -> Any:
        """As the network's, timed."""
        return self._timed(self.net.detect, frames_BCHW)

    def __call__(self, x: Any) -> Any:
        """As the network's, timed."""
        return self._timed(self.net, x)

    def _timed(self, call: Callable[[Any], Any], x: Any) -> Any:
        self._wait()
        begun = time.perf_counter()
        result = call(x)
        self._wait()
        self.seconds += time.perf_counter() - begun
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _count_flops(actor: Annotator, bundle: Bundle, chunk: pa.Table) -> dict[str, float]:
    """Floating-point operations per frame of each model: those of convolutions and matrix products."""
    counts: dict[str, float] = {}

    class Counted:
        def __init__(self, slot: str, net: Any) -> None:
            self.slot, self.net = slot, net

        def detect(self, x: Any) -> Any:
            return self._counted(self.net.detect, x)

        def __call__(self, x: Any) -> Any:
            return self._counted(self.net, x)

        def _counted(self, call: Callable[[Any], Any], x: Any) -> Any:
            with FlopCounterMode(display=False) as counter:
                result = call(x)
            counts[self.slot] = counts.get(self.slot, 0.0) + counter.get_total_flops()
            return result

    nets = dict(actor.nets)
    actor.nets.update({slot: Counted(slot, net) for slot, net in nets.items()})
    actor(chunk)
    actor.nets.update(nets)
    return {model.slot: counts.get(model.slot, 0.0) / len(chunk["frames"][0]) for model in bundle.models}


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second of a large matrix product on this device, the best of a few."""
    side = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


# -- commands ---------------------------------------------------------------------------------------------------------


def decode(
    video: VideoOption,
    bundle: BundleOption = "tiny",
    frames: FramesOption = 512,
    rounds: RoundsOption = 3,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decoding alone, in one task.

    Example: python -m jobs.bench decode --video clip.mp4 --json
    """
    with exit_on_error():
        chosen = job.settings(config, assignments, None)
        say(measure_decode(video, job.resolve(bundle, chosen), chosen, frames, rounds), as_json)


def actor(
    video: VideoOption,
    bundle: BundleOption = "tiny",
    frames: FramesOption = 64,
    rounds: RoundsOption = 3,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """The actor alone, its frames in memory.

    Example: python -m jobs.bench actor --bundle tiny --video clip.mp4 --json
    """
    with exit_on_error():
        chosen = job.settings(config, assignments, None)
        say(measure_actor(video, job.resolve(bundle, chosen), chosen, frames, rounds), as_json)


def models(
    video: VideoOption,
    bundle: BundleOption = "tiny",
    frames: FramesOption = 64,
    rounds: RoundsOption = 3,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Each model alone: time and operations per frame, and share of the device's measured matmul peak.

    Example: python -m jobs.bench models --bundle tiny --video clip.mp4
    """
    with exit_on_error():
        chosen = job.settings(config, assignments, None)
        say(measure_models(video, job.resolve(bundle, chosen), chosen, frames, rounds), as_json)


def loop(
    video: VideoOption,
    bundle: BundleOption = "tiny",
    rounds: RoundsOption = 1,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decode, annotate and write in a plain loop without Ray.

    Example: python -m jobs.bench loop --bundle tiny --video clip.mp4 --json
    """
    with exit_on_error():
        chosen = job.settings(config, assignments, None)
        say(measure_loop(video, job.resolve(bundle, chosen), chosen, None, rounds), as_json)


def pipeline(
    video: VideoOption,
    bundle: BundleOption = "tiny",
    rounds: RoundsOption = 1,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """The whole job with Ray.

    Example: python -m jobs.bench pipeline --bundle tiny --video videos/ --json
    """
    with exit_on_error():
        say(measure_pipeline(video, bundle, job.settings(config, assignments, None), rounds), as_json)


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
