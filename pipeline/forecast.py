"""What a run will take, from a sample of its clips: pure arithmetic.

Clips to do, times frames and pixels of the probed ones, are frames and hours; frames, times faces per frame, are faces.
Decoding costs CPU seconds per megapixel decoded, the face model device seconds per megapixel annotated, every other
model device seconds per face.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import Config

RAY_START_S = 10.0  # Ray and the actors' processes, loading of weights not counted; 8 to 12 s seen on two cores
FILE_MB = 0.011  # of a Parquet file besides its rows: schema with its descriptions, statistics, ledger
_QUANTITIES = ("clips", "hours", "frames", "sampled", "faces", "seconds", "output_mb")


@dataclass(frozen=True)
class Probed:
    """What the headers of some of the clips say.

    Attributes:
        clips: with work to do.
        shards: that they lie in.
        probed: of them, whose headers were read.
        unreadable: of those, that will end in quarantine.
        frames, seconds, megapixels: means of a probed clip, unreadable ones as 0; megapixels of all its frames.
        frame_mb: largest frame as it travels (planar YUV 4:2:0), MB.
    """

    clips: int
    shards: int
    probed: int
    unreadable: int
    frames: float
    seconds: float
    megapixels: float
    frame_mb: float


@dataclass(frozen=True)
class Measured:
    """Rates of this machine on chunks of the sample.

    Attributes:
        device: cpu or cuda.
        frames: annotated frames that they rest on.
        decode_s: CPU seconds per decoded megapixel.
        model_s: slot -> device seconds: of `face` per annotated megapixel, of all others per face.
        other_s: device seconds per annotated megapixel outside the models (colour conversion, crops, results).
        cpus: CPU cores of this machine.
        cpu_per_s: CPU seconds that an actor takes in a second.
        faces: per annotated frame.
        face_bytes: of all tables, per face.
        load_s: seconds until an actor has loaded its models.
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
    load_s: float


@dataclass(frozen=True)
class Cluster:
    """What the run will have: CPU cores and GPUs of all machines."""

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
    """The forecast as plain values; what cannot be known is None.

    Args:
        probed: the sample.
        slot_share: slot -> share of the clips that miss it.
        config: sampling, chunks and prices.
        cluster: what the run will have.
        measured: rates; None: only amounts are forecast.
        faces_per_frame: what the output shows so far; used without `measured`.
    """
    frames, hours = probed.clips * probed.frames, probed.clips * probed.seconds / 3600
    share = 1 / config.decode.every
    if config.decode.fps is not None and probed.frames:
        share = min(1.0, config.decode.fps * probed.seconds / probed.frames)
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
        **dict.fromkeys(("seconds", "output_mb", "bottleneck", "cores_per_gpu", "cost", "device")),
        "models": {},
    }
    if measured is None or faces is None:
        return result
    pixels = probed.clips * probed.megapixels
    chunks = max(probed.clips, sampled / config.decode.chunk_frames)
    files = max(probed.shards, chunks / config.store.chunks_per_file) * sum(value > 0 for value in slot_share.values())
    times = _times(pixels, pixels * share, faces, slot_share, config, cluster, measured)
    return result | times | {"output_mb": faces * measured.face_bytes / 1e6 + files * FILE_MB}


def _times(
    decoded: float,
    annotated: float,
    faces: float,
    slot_share: Mapping[str, float],
    config: Config,
    cluster: Cluster,
    measured: Measured,
) -> dict[str, Any]:
    """Time, cost and bottleneck; `decoded` and `annotated` in megapixels."""
    decode_s = decoded * measured.decode_s
    spent = {
        slot: slot_share.get(slot, 0.0) * per * (annotated if slot == "face" else faces)
        for slot, per in measured.model_s.items()
    }
    device_s = sum(spent.values()) + annotated * measured.other_s
    on_gpu = measured.device == "cuda"
    if on_gpu:
        lanes = {"annotate": device_s / max(cluster.gpus, 1e-9), "decode": decode_s / cluster.cpus}
        busy = max(lanes.values())
    else:  # decoders and actors share the cores; an actor per machine is never faster than it was alone
        lanes = {"annotate": device_s * measured.cpu_per_s, "decode": decode_s}
        machines = max(1.0, cluster.cpus / measured.cpus)
        busy = max(sum(lanes.values()) / cluster.cpus, device_s / machines)
    bottleneck = max(lanes, key=lambda lane: lanes[lane])
    seconds = RAY_START_S + measured.load_s + busy
    cost = _cost(seconds, config, cluster)
    return {
        "device": measured.device,
        "seconds": seconds,
        "bottleneck": bottleneck,
        "decode_cpu_hours": decode_s / 3600,
        "cores_per_gpu": decode_s / device_s if on_gpu and device_s else None,
        "cost": cost,
        "models": {
            slot: {
                "device_hours": s / 3600,
                "cost": None if cost is None or not device_s else cost * s / device_s,
            }
            for slot, s in {**spent, "crops and results": annotated * measured.other_s}.items()
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
        `quantity`, `forecast`, `actual`; None where one is not known.
    """
    return [
        {"quantity": name, "forecast": _rounded(made.get(name)), "actual": _rounded(actual.get(name))}
        for name in _QUANTITIES
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
