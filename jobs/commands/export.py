"""`faceatlas export`: the tables of an output in the format of another tool."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from jobs.options import ConfigOption, OutArgument, SetOption, exit_on_error
from pipeline.config.models import load_config
from pipeline.errors import ConfigError
from pipeline.export.coco import export_coco
from pipeline.export.datasets import export_hf
from pipeline.export.duckdb_views import views_sql
from pipeline.export.select import Identities, export_fex
from pipeline.export.webdataset import export_webdataset
from pipeline.storage.output import open_output, write_bytes

Format = Literal["fex-csv", "fex-parquet", "coco", "webdataset", "hf", "views"]

console = Console(highlight=False, soft_wrap=True, markup=False)


def export(
    out: OutArgument,
    to: Annotated[
        str | None,
        typer.Option(
            help="fex: a .csv or .parquet file for all clips, or a folder for one file per clip, any URI; coco: a "
            ".json file; webdataset and hf: a folder. views goes to OUT/views.sql."
        ),
    ] = None,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="py-feat's layout (Fex) as CSV or Parquet; COCO JSON of boxes and landmarks; WebDataset tars of "
            "aligned crops; a Hugging Face datasets folder with a dataset card; views for DuckDB.",
        ),
    ] = "fex-csv",
    clips: Annotated[
        list[str] | None,
        typer.Option("--clip", help="Id or key of a clip; may be repeated; default: all that are done."),
    ] = None,
    identities: Annotated[
        Identities, typer.Option(help="Fex, column Identity: of the corpus, or py-feat's clustering within each clip.")
    ] = "corpus",
    threshold: Annotated[
        float, typer.Option(min=-1.0, max=1.0, help="Cosine of py-feat's clustering; not used with corpus.")
    ] = 0.8,
    faces_only: Annotated[bool, typer.Option("--faces-only", help="Fex: no rows for frames without a face.")] = False,
    every: Annotated[int, typer.Option(min=1, help="webdataset: crops of every k-th frame alone.")] = 1,
    subject: Annotated[
        bool,
        typer.Option(
            "--subject", help="Only the faces of tracks that are their clip's subject; see CelebV in formats.md."
        ),
    ] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Export an output in the format of another tool; --format fex-csv opens with feat.utils.io.read_feat.

    Examples:
      faceatlas export out/ --to fex/

      faceatlas export out/ --format fex-parquet --to fex.parquet --identities gallery --threshold 0.5

      faceatlas export out/ --format hf --to dataset/

      faceatlas export out/ --format views && duckdb -init out/views.sql
    """
    with exit_on_error():
        options = load_config(config, assignments or []).storage.options
        if form == "views":
            if subject:
                raise ConfigError("--subject is for exports of faces; the view 'tracks' has a column subject")
            write_views(out, options)
            console.print(f"views are in {out.rstrip('/')}/views.sql")
            return
        if to is None:
            raise ConfigError(f"--format {form} needs --to, the file or folder to write")
        files: dict[str, int] = {}
        clips_done = 0
        for place, rows in _writer(
            out, to, form, clips or [], identities, threshold, faces_only, every, subject, options
        ):
            files[place] = rows
            clips_done += 1
    console.print(f"{clips_done} clips, {sum(files.values())} rows in {len(files)} files at {to}")
    raise typer.Exit(0 if clips_done else 1)


def write_views(out: str, options: Mapping[str, Any] | None = None) -> None:
    """Write OUT/views.sql for the current versions.

    Raises:
        OutputError: `out` holds no tables.
    """
    output = open_output(out, options)
    write_bytes(output, "views.sql", views_sql(output).encode())


def _writer(
    out: str,
    to: str,
    form: Format,
    clips: list[str],
    identities: Identities,
    threshold: float,
    faces_only: bool,
    every: int,
    subject: bool,
    options: Mapping[str, Any],
) -> Iterator[tuple[str, int]]:
    """(file, rows so far) after each clip, of any format."""
    if form == "coco":
        return export_coco(out, to, clips, options, subject)
    if form == "webdataset":
        return export_webdataset(out, to, clips, every, options=options, subject=subject)
    if form == "hf":
        return export_hf(out, to, clips, options, subject)
    if form == "views":
        raise AssertionError("views are no list of clips")
    return export_fex(
        out,
        to,
        form,
        clips=clips,
        identities=identities,
        threshold=threshold,
        faces_only=faces_only,
        storage_options=options,
        subject=subject,
    )
