"""Speed of decoding, of each model and of the actor, each alone.

Every measurement that runs models first checks its outputs against the plain way (float32, nothing folded, one frame
and one face at a time) and refuses to print a speed for wrong numbers.
"""

import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.flop_counter import FlopCounterMode

from actors.annotator import Annotator
from actors.runtime.threads import Lanes
from actors.weights.bundles import Bundle
from jobs.bench.check import BenchError, check, decoded, plan_of
from jobs.bench.result import Speed, command_of, measured
from jobs.measure import Clock, count_faces, make_actor
from pipeline.config.models import Config
from pipeline.planning.versions import SlotVersions
from pipeline.runs.context import RunContext


def measure_decode(video: str, bundle: Bundle, config: Config, frames: int, rounds: int) -> Speed:
    """Decoding alone, one task."""
    with tempfile.TemporaryDirectory() as out:
        work, context = (
            plan_of(video, bundle, config, out).work,
            RunContext.of(out, config, SlotVersions(bundle.versions)),
        )
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            count = sum(len(chunk["frames"][0]) for chunk in decoded(work, context, frames))
            seconds.append(time.perf_counter() - started)
    return measured("decode", count, 0, seconds)


def measure_actor(video: str, bundle: Bundle, config: Config, frames: int, rounds: int) -> Speed:
    """The actor alone, its frames in memory."""
    held, actor = _held_chunks(video, bundle, config, frames)
    deviations = check(actor, bundle, config, held[0])
    actor(held[0])
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        answers = [actor(chunk) for chunk in held]
        seconds.append(time.perf_counter() - started)
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
    lanes = actor.lanes.count
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        answers = [actor(chunk) for chunk in held]
        seconds.append(time.perf_counter() - started)
    count = sum(len(chunk["frames"][0]) for chunk in held)
    table = {}
    for model in bundle.models:
        spent = clocks[model.slot].seconds / rounds / lanes  # beside each other
        gflop = flops[model.slot] / 1e9
        rate = gflop * count / spent if spent else 0.0
        table[model.slot] = {
            "model": model.name,
            "ms_per_frame": round(1e3 * spent / count, 3),
            "gflop_per_frame": round(gflop, 3),
            "gflop_per_s": round(rate, 1),
            "share_of_peak": round(rate * 1e9 / peak, 3),
        }
    other = float(np.median(seconds)) - sum(clock.seconds for clock in clocks.values()) / rounds / lanes
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


def _held_chunks(video: str, bundle: Bundle, config: Config, frames: int) -> tuple[list[pa.Table], Annotator]:
    with tempfile.TemporaryDirectory() as out:
        work, context = (
            plan_of(video, bundle, config, out).work,
            RunContext.of(out, config, SlotVersions(bundle.versions)),
        )
        held = list(decoded(work, context, frames))
    if not held:
        raise BenchError(f"{video} holds no frame to measure on")
    return held, make_actor(bundle, config)


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

    nets, lanes = dict(actor.nets), actor.lanes
    actor.nets.update({slot: Counted(slot, net) for slot, net in nets.items()})
    actor.lanes = Lanes(1)  # the counter watches all threads
    actor(chunk)
    actor.nets.update(nets)
    actor.lanes = lanes
    return {model.slot: counts.get(model.slot, 0.0) / len(chunk["frames"][0]) for model in bundle.models}


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second of a large matrix product on this device, the best of a few."""
    side = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


decode = command_of(
    "decode",
    measure_decode,
    frames=512,
    rounds=3,
    about="""Decoding alone, in one task.

    Example: python -m jobs.bench decode --video clip.mp4 --json
    """,
)
actor = command_of(
    "actor",
    measure_actor,
    frames=64,
    rounds=3,
    about="""The actor alone, its frames in memory.

    Example: python -m jobs.bench actor --bundle tiny --video clip.mp4 --json
    """,
)
models = command_of(
    "models",
    measure_models,
    frames=64,
    rounds=3,
    about="""Each model alone: time and operations per frame, and share of the device's measured matmul peak.

    Example: python -m jobs.bench models --bundle tiny --video clip.mp4
    """,
)
