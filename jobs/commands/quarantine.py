"""`faceatlas quarantine list|retry OUT`."""

import json
from typing import Annotated

import typer

from jobs.commands.maintain import changing, console, pairs, reading
from jobs.options import ConfigOption, OutArgument, SetOption, exit_on_error
from pipeline.maintenance import quarantine

app = typer.Typer(help="List clips that failed, and release them for another try.", no_args_is_help=True)
WhereOption = Annotated[
    list[str] | None, typer.Option("--where", help="column=value, for example error_class=truncated; may be repeated.")
]


@app.command("list")
def list_quarantined(
    out: OutArgument,
    where: WhereOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Print the clips in quarantine with their reasons.

    Example: faceatlas quarantine list out/ --where error_class=truncated
    """
    with exit_on_error():
        rows = quarantine.select_rows(reading(out, config, assignments), pairs(where, "--where")).to_pylist()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        name = row["uri"] + (f"!{row['member']}" if row["member"] else "")
        console.print(f"{row['clip_id']} [{row['error_class']}] {name}: {row['message']}", markup=False)
    console.print(f"{len(rows)} clips")


@app.command()
def retry(
    out: OutArgument, where: WhereOption = None, config: ConfigOption = None, assignments: SetOption = None
) -> None:
    """Release quarantined clips: the next `faceatlas annotate` retries them.

    Example: faceatlas quarantine retry out/ --where error_class=unreadable
    """
    with exit_on_error():
        chosen = pairs(where, "--where")
        with changing(out, config, assignments, "quarantine retry") as output:
            count = quarantine.release(output, chosen)
    console.print(f"{count} clips will be retried by the next run")
