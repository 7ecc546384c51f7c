"""Estimated time and cost of a run, from a sample of its clips: pure arithmetic.

The number of clips, times frames and pixels of the probed ones, gives frames and hours; frames, times faces per frame,
give faces.
Decoding costs CPU seconds per megapixel decoded, the face model device seconds per megapixel annotated, every other
model device seconds per face. The sum of the parts is less than the time of a run: Ray and the actors take time to
start, blocks are passed on, and the parts share cores and memory. A small run of the real flow measures that overhead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.models import Config, DecodeConfig
from pipeline.decode.probe import Probed

_LEAST_TRIAL_S = 1.0  # of work between the first and the last chunk of a trial, to tell how the flow goes on
FILE_MB = 0.011  # of a Parquet file besides its rows: schema with its descriptions, statistics, ledger
_QUANTITIES = ("clips", "hours", "frames", "sampled", "faces", "seconds", "output_mb")


@dataclass(frozen=True)
class Measured:
    """Rates of this machine on chunks of the sample.

    Attributes:
        device: cpu or cuda.
        frames: annotated frames that they rest on.
        decode_s: CPU seconds per decoded megapixel.
        model_s: slot -> device seconds: of `face` per annotated megapixel, of all others per face.
        other_s: device seconds per annotated megapixel outside the models (color conversion, crops, results).
        cpus: CPU cores of this machine.
        cpu_per_s: CPU seconds that an actor takes in a second.
        faces: per annotated frame.
        face_bytes: of all tables, per face.
        start_s: seconds until Ray and the actors are at work, as a trial showed.
        overhead: time that the flow of a trial took, as a multiple of the time of its parts by the rates above; None:
            the trial was too short to tell, and the parts alone are counted.
    """

    device: str
    frames: int
    decode_s: float
    model_s: Mapping[str, float]
    other_s: float
    cpus: int
    cpu_per_s: float
    faces: float
    face_bytes: float
    start_s: float = 0.0
    overhead: float | None = None


@dataclass(frozen=True)
class Amount:
    """Work: megapixels decoded, megapixels annotated, faces."""

    decoded: float
    annotated: float
    faces: float

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.decoded + other.decoded, self.annotated + other.annotated, self.faces + other.faces)


@dataclass(frozen=True)
class Step:
    """A point of a trial: seconds since its start, and the work done until then."""

    seconds: float
    done: Amount


@dataclass(frozen=True)
class Cluster:
    """CPU cores and GPUs of all machines of the run."""

    cpus: float
    gpus: float


def forecast(
    probed: Probed,
    slot_share: Mapping[str, float],
    config: Config,
    cluster: Cluster,
    measured: Measured | None = None,
    faces_per_frame: float | None = None,
) -> dict[str, Any]:
    """The forecast as plain values; unknown values are None.

    Args:
        probed: the sample.
        slot_share: slot -> share of the clips that miss it.
        config: sampling, chunks and prices.
        cluster: of the run.
        measured: rates; None: only amounts are forecast.
        faces_per_frame: of the output so far; used without `measured`.
    """
    frames, hours = probed.clips * probed.frames, probed.clips * probed.seconds / 3600
    share = sampled_share(config.decode, probed.frames, probed.seconds)
    sampled = frames * share
    density = measured.faces if measured else faces_per_frame
    faces = None if density is None else sampled * density
    result: dict[str, Any] = {
        "clips": probed.clips,
        "probed": probed.probed,
        "unreadable": round(probed.clips * probed.unreadable / max(probed.probed, 1)),
        "hours": hours,
        "frames": round(frames),
        "sampled": round(sampled),
        "faces": None if faces is None else round(faces),
        "object_store_mb": _object_store(probed, config, cluster),
        **dict.fromkeys(("seconds", "start_seconds", "overhead", "output_mb")),
        **dict.fromkeys(("bottleneck", "cores_per_gpu", "cost", "device")),
        "models": {},
    }
    if measured is None or faces is None:
        return result
    pixels = probed.clips * probed.megapixels
    chunks = max(probed.clips, sampled / config.decode.chunk_frames)
    files = max(probed.shards, chunks / config.store.chunks_per_file) * sum(value > 0 for value in slot_share.values())
    work = Amount(pixels + probed.clips * probed.lead_megapixels, pixels * share, faces)
    times = _times(work, slot_share, config, cluster, measured)
    return result | times | {"output_mb": faces * measured.face_bytes / 1e6 + files * FILE_MB}


def sampled_share(config: DecodeConfig, frames: float, seconds: float) -> float:
    """Share of the decoded frames of a clip that are annotated."""
    if config.fps is not None and frames:
        return min(1.0, config.fps * seconds / frames)
    return 1 / config.every


def after_trial(measured: Measured, steps: Sequence[Step], cluster: Cluster) -> Measured:
    """Rates with the start time and overhead of a trial on a cluster, from its first chunk and the rest of its flow.

    Args:
        measured: rates of the parts.
        steps: of a trial that computed all slots, at least one.
        cluster: that of the trial.
    """
    first, last = steps[0], steps[-1]
    whole = dict.fromkeys(measured.model_s, 1.0)
    begin, end = (_busy(step.done, whole, cluster, measured).seconds for step in (first, last))
    overhead = (last.seconds - first.seconds) / (end - begin) if end - begin >= _LEAST_TRIAL_S else None
    return replace(measured, start_s=max(first.seconds - begin, 0.0), overhead=overhead)


@dataclass(frozen=True)
class _Busy:
    """Time that work takes: slot -> device seconds, CPU seconds of decoding, device seconds, seconds of all parts."""

    spent: Mapping[str, float]
    decode_s: float
    device_s: float
    bottleneck: str
    seconds: float


def _busy(work: Amount, slot_share: Mapping[str, float], cluster: Cluster, measured: Measured) -> _Busy:
    decode_s = work.decoded * measured.decode_s
    spent = {
        slot: slot_share.get(slot, 0.0) * per * (work.annotated if slot == "face" else work.faces)
        for slot, per in measured.model_s.items()
    }
    spent["crops and results"] = work.annotated * measured.other_s
    device_s = sum(spent.values())
    if measured.device == "cuda":
        lanes = {"annotate": device_s / max(cluster.gpus, 1e-9), "decode": decode_s / cluster.cpus}
        seconds = max(lanes.values())
    else:  # decoders and actors share the cores; an actor per machine is never faster than it was alone
        lanes = {"annotate": device_s * measured.cpu_per_s, "decode": decode_s}
        machines = max(1.0, cluster.cpus / measured.cpus)
        seconds = max(sum(lanes.values()) / cluster.cpus, device_s / machines)
    return _Busy(spent, decode_s, device_s, max(lanes, key=lambda lane: lanes[lane]), seconds)


def _times(
    work: Amount, slot_share: Mapping[str, float], config: Config, cluster: Cluster, measured: Measured
) -> dict[str, Any]:
    """Time, cost and bottleneck."""
    busy = _busy(work, slot_share, cluster, measured)
    seconds = measured.start_s + busy.seconds * (measured.overhead or 1.0)
    cost = _cost(seconds, config, cluster)
    return {
        "device": measured.device,
        "seconds": seconds,
        "start_seconds": measured.start_s,
        "overhead": measured.overhead,
        "bottleneck": busy.bottleneck,
        "decode_cpu_hours": busy.decode_s / 3600,
        "cores_per_gpu": busy.decode_s / busy.device_s if measured.device == "cuda" and busy.device_s else None,
        "cost": cost,
        "models": {
            slot: {
                "device_hours": s / 3600,
                "cost": None if cost is None or not busy.device_s else cost * s / busy.device_s,
            }
            for slot, s in busy.spent.items()
        },
    }


def _cost(seconds: float, config: Config, cluster: Cluster) -> float | None:
    """Price of the whole cluster for the run's time; None if a price that it needs is not stated."""
    prices = config.plan
    if (cluster.gpus and prices.gpu_hour is None) or prices.cpu_hour is None:
        return None
    return seconds / 3600 * (cluster.gpus * (prices.gpu_hour or 0.0) + cluster.cpus * prices.cpu_hour)


def _object_store(probed: Probed, config: Config, cluster: Cluster) -> float:
    """Peak of the object store in MB.

    Two chunks of each decoder, and three batches of each actor: one worked on, one that waits, one being written.
    """
    actors = config.actors.size or max(1, int(cluster.gpus))
    chunk = min(config.decode.chunk_frames * probed.frame_mb, max(config.decode.chunk_mb, probed.frame_mb))
    decoders = max(1.0, (cluster.cpus - actors) / config.decode.cpus)
    batch = config.actors.batch_chunks or (4 if cluster.gpus else 1)
    return chunk * (2 * decoders + 3 * batch * actors)


def against(made: Mapping[str, Any], actual: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Forecast beside actual, quantity by quantity.

    Returns:
        `quantity`, `forecast`, `actual`; None where one is unknown.
    """
    return [
        {"quantity": name, "forecast": _rounded(made.get(name)), "actual": _rounded(actual.get(name))}
        for name in _QUANTITIES
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
