"""Speed of the whole flow: a loop without Ray, the pipeline, both in turn, and a short run as a user starts it."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer

from actors.annotator import Annotator
from actors.weights.bundles import Bundle
from jobs import annotate as job
from jobs.bench.check import BenchError, check, decoded, plan_of
from jobs.bench.result import (
    JsonOption,
    RoundsOption,
    Speed,
    VideoOption,
    measured,
    say,
    whole_video_command_of,
)
from jobs.measure import count_faces, make_actor
from jobs.options import BundleOption, exit_on_error
from pipeline.config.models import Config, load_config
from pipeline.converge import Controls, Engine, converge
from pipeline.corpus.discover import Corpus, read_corpus
from pipeline.isolation.shutdown import ShutdownRequest
from pipeline.planning.versions import SlotVersions
from pipeline.runs.context import RunContext
from pipeline.runs.model import Report
from pipeline.stages import write as stage


def measure_loop(video: str, bundle: Bundle, config: Config, rounds: int) -> Speed:
    """Decode, annotate and write in one process, one after the other, without Ray."""
    started = time.perf_counter()
    actor = make_actor(bundle, config)
    load = time.perf_counter() - started
    seconds = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as out:
            started = time.perf_counter()
            frames, faces = _loop(video, bundle, config, out, actor)
            seconds.append(time.perf_counter() - started)
    deviations = _check(video, bundle, config, actor)
    return measured("loop", frames, faces, seconds, deviations=deviations, load_models_seconds=round(load, 2))


def measure_pipeline(video: str, bundle: Bundle, config: Config, rounds: int) -> Speed:
    """The whole job with Ray, start of the actors included; start of Ray is named apart."""
    corpus, start = read_corpus(video, config), _start_ray(config)
    reports = [_pipeline(corpus, bundle, config) for _ in range(rounds)]
    deviations = _check(video, bundle, config, make_actor(bundle, config))
    stages = [dict(report.seconds) for report in reports]
    details = {"start_ray_seconds": round(start, 2), "stages": stages, "deviations": deviations}
    seconds = [report.seconds["annotate"] for report in reports]
    return measured("pipeline", reports[-1].frames, reports[-1].faces, seconds, **details)


def measure_engine(video: str, bundle: Bundle, config: Config, rounds: int) -> Speed:
    """The plain loop and the pipeline in turn on the same clips: what the engine costs.

    `cost` compares the pipeline, with the start of its actors, to the loop with loading the models. `cost_once_started`
    compares seconds per frame beyond the first clip, which the pipeline runs alone for that, so that all that happens
    once cancels out; null for a single clip.
    """
    corpus = read_corpus(video, config)
    first = Corpus(corpus.clips.slice(0, 1), [])
    started = time.perf_counter()
    actor = make_actor(bundle, config)
    load = time.perf_counter() - started
    loops, runs, short_runs, start = [], [], [], 0.0
    for turn in range(rounds):
        with tempfile.TemporaryDirectory() as out:
            started = time.perf_counter()
            frames, faces = _loop(video, bundle, config, out, actor)
            loops.append(time.perf_counter() - started)
        if not turn:
            start = _start_ray(config)
        runs.append(_pipeline(corpus, bundle, config))
        if corpus.clips.num_rows > 1:
            short_runs.append(_pipeline(first, bundle, config))
    if runs[-1].frames != frames or runs[-1].faces != faces:
        raise BenchError(f"the pipeline gave {runs[-1].faces} faces of {runs[-1].frames} frames, not {faces}, {frames}")
    loop = float(np.median(loops))
    seconds = [run.seconds["annotate"] for run in runs]
    steady = None
    if short_runs:
        beyond = float(np.median(seconds)) - float(np.median([run.seconds["annotate"] for run in short_runs]))
        steady = round(beyond / (frames - short_runs[-1].frames) / (loop / frames) - 1, 3)
    return measured(
        "engine",
        frames,
        faces,
        seconds,
        loop_seconds=[round(s, 2) for s in loops],
        load_models_seconds=round(load, 2),
        start_ray_seconds=round(start, 2),
        first_clip_alone_seconds=[run.seconds["annotate"] for run in short_runs],
        first_clip_frames=short_runs[-1].frames if short_runs else None,
        cost=round(float(np.median(seconds)) / (loop + load) - 1, 3),
        cost_once_started=steady,
        deviations=_check(video, bundle, config, actor),
    )


def _loop(video: str, bundle: Bundle, config: Config, out: str, actor: Annotator) -> tuple[int, int]:
    """Bring an empty output to what is wanted but for tracks; returns frames and faces."""
    work, context = plan_of(video, bundle, config, out).work, RunContext.of(out, config, SlotVersions(bundle.versions))
    answers: list[pa.Table] = []
    frames = faces = 0

    def write() -> None:
        if answers:
            stage.commit_chunks(pa.concat_tables(answers), context)
            answers.clear()

    for chunk in decoded(work, context):
        answers.append(actor(chunk))
        frames, faces = frames + len(chunk["frames"][0]), faces + count_faces(answers[-1:])
        if len(answers) == config.store.chunks_per_file:
            write()
    write()
    return frames, faces


def _start_ray(config: Config) -> float:
    from jobs import ray_cluster

    started = time.perf_counter()
    ray_cluster.start_ray(config)
    return time.perf_counter() - started


def _pipeline(corpus: Corpus, bundle: Bundle, config: Config) -> Report:
    from jobs import ray_cluster

    with tempfile.TemporaryDirectory() as out:
        engine = Engine(lambda: None, lambda: ray_cluster.make_stages(bundle, config))
        controls = Controls(lambda _: None, lambda _: None, ShutdownRequest(config.faults.stop_grace_s))
        report = converge(corpus, out, job.wanted_of(bundle), config, engine, controls)
    if not report.complete:
        raise BenchError("the run ended incomplete")
    return report


def _check(video: str, bundle: Bundle, config: Config, actor: Annotator) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as out:
        work, context = (
            plan_of(video, bundle, config, out).work,
            RunContext.of(out, config, SlotVersions(bundle.versions)),
        )
        return check(actor, bundle, config, next(decoded(work, context)))


loop = whole_video_command_of(
    "loop",
    measure_loop,
    """Decode, annotate and write in a plain loop without Ray.

    Example: python -m jobs.bench loop --bundle tiny --video clip.mp4 --json
    """,
)
pipeline = whole_video_command_of(
    "pipeline",
    measure_pipeline,
    """The whole job with Ray.

    Example: python -m jobs.bench pipeline --bundle tiny --video videos/ --json
    """,
)
engine = whole_video_command_of(
    "engine",
    measure_engine,
    """What Ray costs: the plain loop and the pipeline in turn.

    Example: python -m jobs.bench engine --bundle tiny --video videos/ --json
    """,
)


# -- a short run, as a user starts it ---------------------------------------------------------------------------------


def short(
    video: VideoOption, bundle: BundleOption = "tiny", rounds: RoundsOption = 1, as_json: JsonOption = False
) -> None:
    """`faceatlas annotate` of a short clip, in turn with the same work in a process without Ray.

    Example: python -m jobs.bench short --video clip.mp4 --json
    """
    with exit_on_error():
        say(measure_short(video, bundle, rounds), as_json)


def measure_short(video: str, bundle: str, rounds: int) -> Speed:
    """Seconds of whole processes, from their start to their end.

    `ray_seconds` is what `annotate` takes beyond the plain process and its own aggregation (tracks and identities),
    which the plain process leaves out.
    """
    seconds, plain, shares = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            plain.append(_timed([sys.executable, "-m", "jobs.bench.flow", video, str(Path(folder) / "plain"), bundle]))
            seconds.append(_timed([sys.executable, "-m", "jobs.cli", "annotate", video, str(out), "--bundle", bundle]))
            record = json.loads(max((out / "runs").glob("*.json")).read_text())
            shares.append(seconds[-1] - plain[-1] - record["seconds"]["aggregate"])
    return measured(
        "short",
        record["frames"],
        record["faces"],
        seconds,
        plain_seconds=[round(s, 2) for s in plain],
        ray_seconds=[round(s, 2) for s in shares],
        stages=record["seconds"],
    )


def _timed(command: Sequence[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command[1:4])} ended with exit code {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - started


def _plain(video: str, out: str, bundle: Annotated[str, typer.Argument()] = "tiny") -> None:
    """Annotate a video in this process, without Ray."""
    config = load_config(None, [])
    models = job.resolve(bundle, config)
    _loop(video, models, config, out, make_actor(models, config))


if __name__ == "__main__":
    typer.run(_plain)
