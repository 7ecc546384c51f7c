"""Our actor beside the reference on the same video, in turn in one run."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from actors.weights.bundles import Bundle
from jobs import annotate as job
from jobs.bench.check import BenchError, check, decoded, plan_of
from jobs.bench.result import JsonOption, RoundsOption, Speed, StandinsOption, VideoOption, measured, say
from jobs.measure import count_faces, make_actor
from jobs.options import ConfigOption, SetOption, exit_on_error
from pipeline.config.models import Config
from pipeline.planning.versions import SlotVersions
from pipeline.runs.context import RunContext

_PEER_SCRIPT = Path(__file__).with_name("pyfeat_peer.py")
_CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
#: runs the reference's script with its clock changed for processor time
_CPU_CLOCK = (
    "import runpy, sys, time; time.perf_counter = time.process_time; "
    "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def peer(
    video: VideoOption,
    bundle: StandinsOption,
    peer_python: Annotated[Path, typer.Option(help="Python with py-feat 2.0.3 or 2.1.5.")],
    peer_script: Annotated[
        Path | None, typer.Option(help="Script that times the peer; default: jobs/bench/pyfeat_peer.py.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every k-th frame.")] = 4,
    batch: Annotated[int, typer.Option(min=1, help="Batch of the reference, frames.")] = 8,
    threads: Annotated[int, typer.Option(min=1, help="Of both.")] = 2,
    clock: Annotated[
        str, typer.Option(help="wall, or cpu: seconds of processor time, for a machine that others use.")
    ] = "wall",
    rounds: RoundsOption = 1,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """The actor and py-feat in turn, on the same frames with the same threads: ours, theirs, ours, ...

    Example: python -m jobs.bench peer --video clip.mp4 --bundle standins/bundle.yaml --peer-python pyfeat/bin/python
    --every 4

    `python tests/parity/make_reference.py --venv pyfeat --out answers` makes such a Python. Another script gets VIDEO,
    --batch, --every and --threads, and prints JSON with `frames` and `frames_per_s` as its last line.
    """
    with exit_on_error():
        chosen = job.settings(config, assignments, every)
        models = job.resolve(bundle, chosen)
        if clock not in _CLOCKS:
            raise BenchError(f"--clock {clock}: there are {', '.join(_CLOCKS)}")
        starter = ["-c", _CPU_CLOCK] if clock == "cpu" else []
        command = [peer_python, *starter, peer_script or _PEER_SCRIPT, video]
        command += ["--batch", batch, "--every", every, "--threads", threads]
        if peer_script is None:
            command += ["--weights", Path(bundle).parent]
        say(measure_peer(video, models, chosen, [str(part) for part in command], threads, rounds, clock), as_json)


def measure_peer(
    video: str, bundle: Bundle, config: Config, command: Sequence[str], threads: int, rounds: int, clock: str
) -> Speed:
    """Ours and theirs in turn, ours also last. Their clock covers decoding and tables, ours is given with and without.

    With the clock `cpu` rates are frames per second of processor time, of all threads together.

    Raises:
        BenchError: the reference fails, or took other frames.
    """
    actor, now = make_actor(bundle, config, threads=threads), _CLOCKS[clock]
    alone: list[float] = []
    decoding: list[float] = []
    theirs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as out:
        work, context = (
            plan_of(video, bundle, config, out).work,
            RunContext.of(out, config, SlotVersions(bundle.versions)),
        )
        held = list(decoded(work, context))
        frames = sum(len(chunk["frames"][0]) for chunk in held)
        deviations = check(actor, bundle, config, held[0])
        for turn in range(rounds + 1):
            started = now()
            held = list(decoded(work, context))
            decoding.append(now() - started)
            answers = [actor(chunk) for chunk in held]
            alone.append(now() - started - decoding[-1])
            if turn < rounds:
                theirs.append(_run_peer(command))
    if any(one["frames"] != frames for one in theirs):
        raise BenchError(f"the reference took {theirs[0]['frames']} rows for our {frames} frames")
    rate = float(np.median([one["frames_per_s"] for one in theirs]))
    with_decoding = frames / float(np.median(np.add(alone, decoding)))
    return measured(
        "peer",
        frames,
        count_faces(answers),
        alone,
        peer=theirs,
        peer_frames_per_s=rate,
        times_as_fast=round(frames / float(np.median(alone)) / rate, 3),
        times_as_fast_with_decoding=round(with_decoding / rate, 3),
        clock=clock,
        load_average=os.getloadavg(),
        precision=config.actors.precision,
        deviations=deviations,
    )


def _run_peer(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the reference failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
