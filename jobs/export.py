"""`faceatlas export`: the tables of an output in the layout of another tool."""

from typing import Annotated

import typer
from rich.console import Console

from jobs.options import ConfigOption, OutArgument, SetOption, exit_on_error
from pipeline.config import load_config
from pipeline.export import Format, Identities
from pipeline.export import export as write_export

console = Console(highlight=False, soft_wrap=True, markup=False)


def export(
    out: OutArgument,
    to: Annotated[
        str, typer.Option(help="A .csv or .parquet file for all clips, or a folder for one file per clip; any URI.")
    ],
    form: Annotated[Format, typer.Option("--format", help="py-feat's layout (Fex) as CSV or as Parquet.")] = "fex-csv",
    clips: Annotated[
        list[str] | None,
        typer.Option("--clip", help="Id or key of a clip; may be repeated; default: all that are done."),
    ] = None,
    identities: Annotated[
        Identities, typer.Option(help="Column Identity: of the corpus, or py-feat's clustering within each clip.")
    ] = "corpus",
    threshold: Annotated[
        float, typer.Option(min=-1.0, max=1.0, help="Cosine of py-feat's clustering; not used with corpus.")
    ] = 0.8,
    faces_only: Annotated[bool, typer.Option("--faces-only", help="No rows for frames without a face.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Write clips in py-feat's layout: 695 columns, one row per face, which feat.utils.io.read_feat opens.

    Examples:
      faceatlas export out/ --to fex/

      faceatlas export out/ --format fex-parquet --to fex.parquet --identities gallery --threshold 0.5
    """
    with exit_on_error():
        options = load_config(config, assignments or []).storage.options
        files: dict[str, int] = {}
        clips_done = 0
        for place, rows in write_export(
            out,
            to,
            form,
            clips=clips or (),
            identities=identities,
            threshold=threshold,
            faces_only=faces_only,
            storage_options=options,
        ):
            files[place] = rows
            clips_done += 1
    console.print(f"{clips_done} clips, {sum(files.values())} rows in {len(files)} files at {to}")
    raise typer.Exit(0 if clips_done else 1)
