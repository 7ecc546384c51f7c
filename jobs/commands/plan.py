"""`faceatlas plan CORPUS OUT`: the work of a run by table and shard, with its estimated time and cost."""

import json
import os
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from actors.weights.bundles import Bundle
from jobs.annotate import resolve, settings, wanted_of
from jobs.options import (
    BundleOption,
    ConfigOption,
    CorpusArgument,
    EveryOption,
    FollowOption,
    OutArgument,
    SetOption,
    exit_on_error,
)
from pipeline import schema
from pipeline.config.models import Config
from pipeline.converge import plan_run
from pipeline.corpus.discover import read_corpus
from pipeline.decode.probe import probe_work
from pipeline.planning.forecast import Cluster, forecast
from pipeline.planning.plan import Plan
from pipeline.runs.record import save_forecast
from pipeline.storage.output import open_output
from pipeline.tables.status import faces_per_frame

_SHARDS_SHOWN = 20
_AMOUNTS = ("clips", "frames", "chunks", "unknown")

console = Console(highlight=False, soft_wrap=True)


def plan(
    corpus: CorpusArgument,
    out: OutArgument,
    bundle: BundleOption = "pyfeat",
    every: EveryOption = None,
    follow_models: FollowOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    measured: Annotated[
        bool, typer.Option("--measure", help="Estimate time and cost: time a few chunks on this machine.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=1, help="Time budget of --measure, without loading models.")] = 30.0,
    save: Annotated[
        bool,
        typer.Option("--save", help="Keep the forecast in OUT; the next run records the actual figures beside it."),
    ] = False,
) -> None:
    """Show what `annotate` would do, with estimated time and cost; changes nothing without --save.

    Prices and the size of the cluster come from the settings plan.*. Measured rates hold for devices like those of
    this machine.

    Examples:
      faceatlas plan videos/ out/ --bundle my_bundle.yaml

      faceatlas plan videos/ out/ --measure --save --set plan.gpus=8 --set plan.gpu_hour=2.5 --set plan.cpu_hour=0.04
    """
    with exit_on_error():
        chosen = settings(config, assignments, every)
        models = resolve(bundle, chosen, out, follow_models)
        sources = read_corpus(corpus, chosen)
        wanted = wanted_of(models)
        difference = plan_run(sources, out, wanted, chosen)
        made = make_forecast(difference, out, models, chosen, seconds if measured else None)
        if save and made is not None:
            save_forecast(open_output(out, chosen.storage.options), made, wanted.versions)
    to_do = difference.reasons.total()
    if as_json:
        summary = {
            "clips": difference.clips.num_rows,
            "to_do": to_do,
            "ignored": len(sources.ignored),
            "reasons": dict(difference.reasons),
            "slots": difference.counts,
            "versions": dict(wanted.versions),
            "tables": table_rows(difference),
            "forecast": made,
            "shards": [{"table": schema.TABLE_OF_SLOT[r["slot"]], **r} for r in difference.summary.to_pylist()],
        }
        print(json.dumps(summary, indent=2))
        return
    console.print(f"{difference.clips.num_rows} clips, {to_do} with work to do")
    for reason, clips in sorted(difference.reasons.items()):
        console.print(f"  {clips} clips: {reason}")
    console.print(_printed("table", table_rows(difference), "table", wanted.versions))
    work = [row for row in difference.summary.to_pylist() if row["state"] in ("missing", "stale")]
    shards = sorted({row["shard"] for row in work})
    shown = [row for row in work if row["shard"] in shards[:_SHARDS_SHOWN]]
    if shown:
        console.print(_printed("shard", sorted(shown, key=lambda row: row["shard"]), "shard", None))
    if len(shards) > _SHARDS_SHOWN:
        console.print(f"... and {len(shards) - _SHARDS_SHOWN} more shards with work; --json prints all")
    if made is not None:
        say_forecast(made, chosen)


def table_rows(difference: Plan) -> list[dict[str, Any]]:
    """The plan's summary over all shards: one dict per table, state and reason."""
    sums: dict[tuple[str, str, str | None], Counter[str]] = {}
    for row in difference.summary.to_pylist():
        key = (row["slot"], row["state"], row["reason"])
        sums.setdefault(key, Counter()).update({name: row[name] for name in _AMOUNTS})
    return [
        {"table": schema.TABLE_OF_SLOT[slot], "slot": slot, "state": state, "reason": reason}
        | {name: total[name] for name in _AMOUNTS}
        for (slot, state, reason), total in sums.items()
    ]


def _printed(first: str, rows: list[dict[str, Any]], key: str, versions: Any) -> Table:
    table = Table(box=None, pad_edge=False)
    names = [first, "version" if versions else "slot", "state", "reason", "clips", "frames to do"]
    for name in names:
        table.add_column(name, justify="right" if name in ("clips", "frames to do") else "left", no_wrap=True)
    for row in rows:
        second = versions[row["slot"]] if versions else row["slot"]
        table.add_row(str(row[key]), second, row["state"], row["reason"] or "", str(row["clips"]), _work(row))
    return table


def _work(row: dict[str, Any]) -> str:
    """Frames and chunks in words; `unknown` for clips of unknown length."""
    if row["state"] not in ("missing", "stale"):
        return ""
    known = f"{row['frames']} in {row['chunks']} chunks" if row["unknown"] < row["clips"] else ""
    unknown = f"unknown for {row['unknown']} clips" if row["unknown"] else ""
    return ", ".join(part for part in (known, unknown) if part)


def make_forecast(
    difference: Plan, out: str, bundle: Bundle, config: Config, seconds: float | None
) -> dict[str, Any] | None:
    """The forecast of a plan's work; None without work.

    Args:
        difference: the plan.
        out: output folder.
        bundle: the models.
        config: settings.
        seconds: time budget of the measurement; None: only headers are read.
    """
    if not difference.work.num_rows:
        return None
    probed, readable = probe_work(difference.work, config)
    asked = Counter(slot for slots in difference.work["slots"].to_pylist() for slot in slots)
    share = {slot: count / probed.clips for slot, count in asked.items()}
    rates = None
    if seconds is not None:
        from jobs.measure import measure  # with torch, which takes seconds to load

        rates = measure(readable, bundle, config, seconds)
    density = faces_per_frame(out, config.storage.options)
    return forecast(probed, share, config, _cluster(config), rates, density)


def _cluster(config: Config) -> Cluster:
    """The cluster of the configuration, else this machine."""
    gpus = config.plan.gpus if config.plan.gpus is not None else config.ray.num_gpus
    if gpus is None:
        gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))  # torch can count them, but takes seconds to load
    return Cluster(config.plan.cpus or config.ray.num_cpus or os.cpu_count() or 1, gpus)


def say_forecast(made: dict[str, Any], config: Config) -> None:
    """Print a forecast in words."""
    console.print(
        f"forecast, from {made['probed']} probed clips: {made['hours']:.2f} hours of video, {made['frames']} frames, "
        f"{made['sampled']} to annotate, {_or_unknown(made['faces'], '{:.0f}')} faces; "
        f"about {made['unreadable']} unreadable clips; object store up to {made['object_store_mb']:.0f} MB"
    )
    if made["seconds"] is None:
        console.print("estimated time and cost: unknown without --measure, which times a few chunks on this machine")
        return
    cost = _or_unknown(made["cost"], "{:.2f} " + config.plan.currency)
    console.print(
        f"  estimated time {timedelta(seconds=round(made['seconds']))} on devices like this machine's "
        f"({made['device']}), cost {cost}, {made['output_mb']:.1f} MB of tables; bottleneck: {made['bottleneck']}; "
        f"decoding takes {made['decode_cpu_hours']:.3f} CPU hours"
    )
    console.print(
        f"  including {made['start_seconds']:.0f} s to start Ray and the actors; the flow takes "
        f"{_or_unknown(made['overhead'], '{:.2f} times')} the time of its parts alone"
    )
    if made["cores_per_gpu"] is not None:
        console.print(f"  {made['cores_per_gpu']:.1f} CPU cores feed one GPU")
    for slot, model in made["models"].items():
        cost = _or_unknown(model["cost"], "{:.2f} " + config.plan.currency)
        console.print(f"  {slot}: {model['device_hours']:.4f} device hours, cost {cost}")


def _or_unknown(value: float | None, words: str) -> str:
    return "unknown" if value is None else words.format(value)
