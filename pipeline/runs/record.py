"""The record of a run, runs/<run>.json: its report, and its forecast beside the actual figures."""

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.corpus.discover import Corpus
from pipeline.errors import OutputError
from pipeline.planning.forecast import against
from pipeline.planning.plan import Plan
from pipeline.planning.versions import SlotVersions, TableVersions
from pipeline.runs.accounting import RunLedger
from pipeline.runs.context import RunContext
from pipeline.runs.model import Annotation, Report, Stage
from pipeline.storage.output import Output, write_bytes
from pipeline.tables import parquet

FORECAST = "forecast.json"


def save_forecast(output: Output, made: Mapping[str, Any], slots: SlotVersions) -> None:
    """Keep a forecast for the next run that does exactly this work."""
    saved = {"versions": dict(slots), "stored_mb": stored_mb(output), "forecast": dict(made)}
    write_bytes(output, FORECAST, (json.dumps(saved, indent=2) + "\n").encode())


def read_forecast(output: Output, plan: Plan, slots: SlotVersions) -> dict[str, Any] | None:
    """The saved forecast, if it was made for these models and so many clips to do."""
    try:
        saved = json.loads(output.fs.cat_file(output.path(FORECAST)))
    except FileNotFoundError:
        return None
    clips = len(plan.work["clip_id"].unique())
    mine = saved["versions"] == dict(slots) and saved["forecast"]["clips"] == clips and clips > 0
    return saved if mine else None


def compare_forecast(saved: Mapping[str, Any], output: Output, ledger: RunLedger, seconds: float) -> dict[str, Any]:
    """A saved forecast with the list `against` of forecast and actual."""
    clips = parquet.read_version(output, "clips", ledger.tables["clips"], ["clip_id", "frames", "fps", "sampled"])
    mine = clips.filter(pc.is_in(clips["clip_id"], value_set=pa.array(ledger.ended, pa.string())))
    length = pc.sum(pc.divide(mine["frames"].cast(pa.float64()), mine["fps"])).as_py()
    actual = {
        "clips": float(len(ledger.ended)),
        "hours": (length or 0.0) / 3600,
        "frames": pc.sum(mine["frames"]).as_py() or 0,
        "sampled": float(ledger.frames),
        "faces": float(ledger.faces),
        "seconds": seconds,
        "output_mb": stored_mb(output) - saved["stored_mb"],
    }
    return {**saved["forecast"], "against": against(saved["forecast"], actual)}


def stored_mb(output: Output) -> float:
    """Size of the files of all slots' tables, all versions."""
    total = 0
    for table in schema.TABLE_OF_SLOT.values():
        try:
            found = output.fs.find(output.path(table), detail=True)
        except FileNotFoundError:
            continue
        total += sum(info["size"] for path, info in found.items() if str(path).endswith(".parquet"))
    return total / 1e6


def cluster_of(pools: Sequence[Stage]) -> dict[str, Any]:
    """CPUs, GPUs and nodes of the running Ray cluster, and the actor pools of the run."""
    import ray

    resources = ray.cluster_resources()
    return {
        "cpus": resources.get("CPU", 0.0),
        "gpus": resources.get("GPU", 0.0),
        "nodes": sum(node["Alive"] for node in ray.nodes()),
        "pools": [
            {
                "slots": list(stage.slots),
                "actors": stage.pool.size or stage.pool.max_size,
                "gpus": stage.pool.gpus,
                "cpus": stage.pool.cpus,
            }
            for stage in pools
        ],
    }


def record_run(
    output: Output,
    report: Report,
    corpus: Corpus,
    annotation: Annotation,
    context: RunContext,
    tables: TableVersions,
    cluster: Mapping[str, Any] | None,
    forecast: Mapping[str, Any] | None,
) -> None:
    """Write runs/<run>.json; `tables` are the versions that the run made, those of its snapshot among them.

    Raises:
        OutputError: it cannot be written.
    """
    record = {
        "run": report.run,
        "bundle": annotation.name,
        "models": annotation.models,
        "versions": dict(context.slots),
        "tables": dict(tables),
        "clips": report.clips,
        "wanted": report.wanted,
        "missing": list(report.missing),
        "pending": report.pending,
        "frames": report.frames,
        "faces": report.faces,
        "tracks": report.tracks,
        "identities": report.identities,
        "seconds": report.seconds,
        "cluster": cluster,
        "forecast": forecast,
        "ignored": corpus.ignored,
        # storage options may hold keys and tokens
        "config": context.config.model_dump(mode="json", exclude={"storage": {"options"}}),
        "software": {"ray": metadata.version("ray"), "pyarrow": pa.__version__},
    }
    try:
        write_bytes(output, f"runs/{report.run}.json", (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        raise OutputError(f"cannot write the record of the run to {output.path('runs')}: {error}") from error
