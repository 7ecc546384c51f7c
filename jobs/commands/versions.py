"""`faceatlas versions list|diff|drop`."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from jobs.commands.maintain import changing, console, pairs, reading
from jobs.options import ConfigOption, OutArgument, SetOption, exit_on_error
from pipeline.errors import ConfigError
from pipeline.maintenance import version_diff
from pipeline.runs.history import read_runs
from pipeline.schema import TABLE_OF_SLOT
from pipeline.storage.output import Output
from pipeline.tables import parquet

EXCEEDED = 3  # exit code of a comparison that breaks a limit

app = typer.Typer(help="Versions of the tables: list, compare, drop.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
TABLES = (*TABLE_OF_SLOT.values(), "clips", "quarantine", "tracks", "identities")


@app.command("list")
def list_versions(
    out: OutArgument, config: ConfigOption = None, assignments: SetOption = None, as_json: JsonOption = False
) -> None:
    """Print every version of every table: which is current, how large it is, which run made it.

    Example: faceatlas versions list out/
    """
    with exit_on_error():
        rows = version_rows(reading(out, config, assignments))
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("table", "version", "current", "rows", "files", "model", "first run"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        names = ("table", "version", "current", "rows", "files", "model", "first_run")
        table.add_row(*("" if row[n] in (None, False) else "yes" if row[n] is True else str(row[n]) for n in names))
    console.print(table)


def version_rows(output: Output) -> list[dict[str, Any]]:
    """One dict per version of a table in the output."""
    current = parquet.read_current(output)
    runs = list(read_runs(output))
    rows = []
    for name in TABLES:
        slot = next((slot for slot, table in TABLE_OF_SLOT.items() if table == name), name)
        for version in parquet.table_versions(output, name):
            made = [run for run in runs if run["tables"].get(name) == version]
            model = made[-1].get("models", {}).get(slot, {}).get("model") if made else None
            column = ["identity_id"] if name == "identities" else ["track_id" if name == "tracks" else "clip_id"]
            rows.append(
                {
                    "table": name,
                    "version": version,
                    "current": current.get(name) == version,
                    "rows": parquet.read_version(output, name, version, column).num_rows,
                    "files": len(parquet.list_parquet(output, parquet.partition(name, version))),
                    "model": model,
                    "first_run": made[-1]["run"] if made else None,
                }
            )
    return rows


@app.command()
def diff(
    out: OutArgument,
    table: Annotated[str, typer.Argument(help="faces, landmarks, ..., or identities.")],
    old: Annotated[str, typer.Argument(help="Version.")],
    new: Annotated[str, typer.Argument(help="Version.")],
    limit: Annotated[list[str] | None, typer.Option(help="metric=value; may be repeated. Broken: exit code 3.")] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions of a table; with limits, exit code 3 if they differ too much.

    Example: faceatlas versions diff out/ landmarks 1f0c... 9a3b... --limit mean_distance=1.5
    """
    with exit_on_error():
        limits = {name: _number(name, value) for name, value in pairs(limit, "--limit").items()}
        metrics = version_diff.diff_versions(reading(out, config, assignments), table, old, new)
        broken = {metric.name for metric in version_diff.exceeded(metrics, limits)}
    if as_json:
        print(json.dumps({"metrics": {m.name: m.value for m in metrics}, "exceeded": sorted(broken)}, indent=2))
    else:
        _print_metrics(metrics, limits, broken)
    raise typer.Exit(EXCEEDED if broken else 0)


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"--limit {name}={value}: {value!r} is no number") from error


def _print_metrics(metrics: list[version_diff.DiffMetric], limits: Mapping[str, float], broken: set[str]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("metric", "value", "limit"):
        table.add_column(name, no_wrap=True, justify="left" if name == "metric" else "right")
    for metric in metrics:
        value = "nothing to measure" if metric.value is None else f"{metric.value:g} {metric.unit}".rstrip()
        bound = "at least" if metric.least else "at most"
        mark = " EXCEEDED" if metric.name in broken else ""
        shown = f"{bound} {limits[metric.name]:g}{mark}" if metric.name in limits else ""
        table.add_row(metric.name, value, shown)
    console.print(table)


@app.command()
def drop(
    out: OutArgument,
    table: Annotated[str, typer.Argument(help="Table.")],
    version: Annotated[str, typer.Argument(help="A version that is not current.")],
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Remove a version of a table that is not current.

    Example: faceatlas versions drop out/ emotions 1f0c9a3b5d7e
    """
    with exit_on_error(), changing(out, config, assignments, f"versions drop {table}") as output:
        there = parquet.table_versions(output, table) if table in TABLES else []
        if version not in there:
            raise ConfigError(f"table {table!r} has no version {version!r}; it has {', '.join(there) or 'none'}")
        if parquet.read_current(output).get(table) == version:
            raise ConfigError(f"version {version} of {table} is current; only other versions can be dropped")
        output.fs.rm(output.path(parquet.partition(table, version)), recursive=True)
    console.print(f"dropped version {version} of {table}")
