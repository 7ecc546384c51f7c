"""`faceatlas plan CORPUS OUT`: what `annotate` would do, table by table and shard by shard, and at what price."""

import json
from collections import Counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

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
from pipeline import annotate as flow
from pipeline import schema
from pipeline.plan import Plan
from pipeline.sources import read_corpus

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
) -> None:
    """Show what `annotate` with the same arguments would do; changes nothing.

    Example: faceatlas plan videos/ out/ --bundle my_bundle.yaml
    """
    with exit_on_error():
        chosen = settings(config, assignments, every)
        models = resolve(bundle, chosen, out, follow_models)
        sources = read_corpus(corpus, chosen)
        wanted = wanted_of(models)
        difference = flow.plan_run(sources, out, wanted, chosen)
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


def table_rows(difference: Plan) -> list[dict[str, Any]]:
    """The plan's summary without its shards: one dict per table, state and reason."""
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
    names = [first, "version" if versions else "slot", "state", "why", "clips", "frames to do"]
    for name in names:
        table.add_column(name, justify="right" if name in ("clips", "frames to do") else "left", no_wrap=True)
    for row in rows:
        second = versions[row["slot"]] if versions else row["slot"]
        table.add_row(str(row[key]), second, row["state"], row["reason"] or "", str(row["clips"]), _work(row))
    return table


def _work(row: dict[str, Any]) -> str:
    """Frames and chunks in words; `unknown` where no run has measured the clips yet."""
    if row["state"] not in ("missing", "stale"):
        return ""
    known = f"{row['frames']} in {row['chunks']} chunks" if row["unknown"] < row["clips"] else ""
    unknown = f"unknown for {row['unknown']} clips" if row["unknown"] else ""
    return ", ".join(part for part in (known, unknown) if part)
