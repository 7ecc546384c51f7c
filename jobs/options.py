"""Arguments that several commands share, and how errors leave them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from ray.exceptions import RayError, RayTaskError

from actors.errors import ModelError
from pipeline.errors import FaceatlasError

CorpusArgument = Annotated[
    str,
    typer.Argument(
        help="Folder, glob or video on any fsspec URI; .tar shards; a manifest (.parquet, .csv, .jsonl); CelebV .json."
    ),
]
OutArgument = Annotated[str, typer.Argument(help="Output folder, any fsspec URI.")]
BundleOption = Annotated[str, typer.Option(help="Bundle of models: a name (pyfeat, tiny) or a YAML file.")]
EveryOption = Annotated[int | None, typer.Option(min=1, help="Annotate every k-th frame; short for decode.every.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file; `faceatlas config` prints all settings.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="One setting, a.b=c; may be repeated.")]


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn errors that the user can mend into one message and exit code 2, failures of the flow into 1."""
    try:
        yield
    except (FaceatlasError, ModelError, PermissionError) as error:
        print(f"faceatlas: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        print(
            f"faceatlas: the run failed: {cause}\nWhat was finished is kept; the same command does the rest.",
            file=sys.stderr,
        )
        raise typer.Exit(1) from error
