"""Cost of upgrading one model, compared with annotating the same clips from scratch, in a plain loop without Ray."""

import json
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer

from actors.annotator import Annotator
from actors.weights.bundles import Bundle
from jobs import annotate as job
from jobs.bench.check import LIMITS, BenchError, plan_of
from jobs.bench.result import JsonOption, VideoOption, setting
from jobs.measure import make_actor
from jobs.options import BundleOption, ConfigOption, SetOption, exit_on_error
from pipeline import schema
from pipeline.config.models import Config
from pipeline.isolation.registry import AttemptRegistry, RegistryClient
from pipeline.planning.versions import SlotVersions
from pipeline.runs.context import RunContext
from pipeline.stages import write
from pipeline.stages.decode import decode_clips
from pipeline.storage.output import Output, open_output
from pipeline.tables import parquet

_NEW = "measured-upgrade"


@dataclass(frozen=True)
class Cost:
    """What bringing an output to a bundle took.

    Attributes:
        frames: decoded and given to the actor.
        decode_s, actor_s, write_s: wall-clock seconds; what a device does is in those of the actor.
        cpu_s: processor seconds of all threads, which other jobs on the machine hardly change.
    """

    frames: int
    decode_s: float
    actor_s: float
    write_s: float
    cpu_s: float

    @property
    def total_s(self) -> float:
        """Wall-clock seconds of all three."""
        return round(self.decode_s + self.actor_s + self.write_s, 2)


def measure_upgrade(video: str, bundle: Bundle, config: Config, slot: str) -> dict:
    """Annotate from scratch, then with another version of one slot's model: the same one, so that numbers must agree.

    Raises:
        BenchError: no such slot; the upgrade touched other tables, or its numbers differ from those from scratch.
    """
    if bundle.slot(slot) is None:
        raise BenchError(f"bundle {bundle.name} has no model for {slot}")
    newer = tuple(replace(model, version=_NEW) if model.slot == slot else model for model in bundle.models)
    upgraded, actor = replace(bundle, models=newer), make_actor(bundle, config)
    with tempfile.TemporaryDirectory() as out:
        scratch = _converge(video, bundle, config, out, actor)
        before = {path: path.read_bytes() for path in Path(out).rglob("*.parquet")}
        upgrade = _converge(video, upgraded, config, out, actor)
        if any(path.read_bytes() != data for path, data in before.items()):
            raise BenchError("the upgrade changed files of other tables")
        table, output = schema.TABLE_OF_SLOT[slot], open_output(out)
        old, new = (_values(output, table, version) for version in (bundle.versions[slot], _NEW))
    if old.shape != new.shape or not np.allclose(old, new, atol=LIMITS.get(slot, 1e-3), equal_nan=True):
        raise BenchError(f"{table} of the upgrade differs from that from scratch")
    return {
        "what": f"upgrade of {slot}",
        "from_scratch": {**asdict(scratch), "total_s": scratch.total_s},
        "upgrade": {**asdict(upgrade), "total_s": upgrade.total_s},
        "share_of_actor": round(upgrade.actor_s / scratch.actor_s, 3),
        "share_of_total": round(upgrade.total_s / scratch.total_s, 3),
        "share_of_cpu": round(upgrade.cpu_s / scratch.cpu_s, 3),
        "setting": setting(),
    }


def _converge(video: str, bundle: Bundle, config: Config, out: str, actor: Annotator) -> Cost:
    """Do what the plan asks for, one chunk after the other."""
    work, context = plan_of(video, bundle, config, out).work, RunContext.of(out, config, SlotVersions(bundle.versions))
    frames, seconds, answers = 0, {"decode": 0.0, "actor": 0.0, "write": 0.0}, []
    flow = decode_clips(work, context, RegistryClient(AttemptRegistry(out, snapshot_s=0)))
    processor, started = time.process_time(), time.perf_counter()
    for chunk in flow:
        decoded = time.perf_counter()
        answers.append(actor(chunk))
        frames += len(chunk["frames"][0])
        seconds["decode"] += decoded - started
        started = time.perf_counter()
        seconds["actor"] += started - decoded
    if not frames:
        raise BenchError(f"{video} gives no frame to measure on")
    seconds["decode"] += time.perf_counter() - started
    started = time.perf_counter()
    write.commit_chunks(pa.concat_tables(answers), context)
    seconds["write"] = time.perf_counter() - started
    figures = [*seconds.values(), time.process_time() - processor]
    return Cost(frames, *(round(figure, 2) for figure in figures))


def _values(output: Output, table: str, version: str) -> np.ndarray:
    keys = [(key, "ascending") for key in ("clip_id", "frame", "face")]
    rows = parquet.read_version(output, table, version).sort_by(keys)
    return np.stack([rows[name].to_numpy() for name in rows.column_names if pa.types.is_floating(rows[name].type)])


def upgrade(
    video: VideoOption,
    bundle: BundleOption = "tiny",
    slot: Annotated[str, typer.Option(help="Whose model is another one.")] = "emotions",
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upgrade of one model against annotating from scratch.

    Example: python -m jobs.bench upgrade --bundle DIR/bundle.yaml --video videos/ --set decode.every=16
    """
    with exit_on_error():
        chosen = job.settings(config, assignments, None)
        result = measure_upgrade(video, job.resolve(bundle, chosen), chosen, slot)
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        job.console.print(f"{name}: {value}", markup=False)
