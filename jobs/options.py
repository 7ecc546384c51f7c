"""Arguments that several commands share, and their handling of errors."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from jobs.signals import EXIT_STOPPED
from pipeline.errors import FaceatlasError, StoppedError
from pipeline.storage.fs import is_storage_error

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
    Path | None, typer.Option("--config", help="YAML file of settings; `faceatlas config` prints all.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, a.b=c; repeatable. Takes precedence over --config.")
]
FollowOption = Annotated[
    bool,
    typer.Option(
        "--follow-models", help="Use the newest revision of models without a pinned revision, not the recorded one."
    ),
]


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn errors that the user can fix into one message and exit code 2, failures of the flow into exit code 1."""
    try:
        yield
    except StoppedError as error:
        print(
            "faceatlas: INTERRUPTED, stopped by a signal. Completed work is kept; run the same command again to "
            "continue.",
            file=sys.stderr,
        )
        raise typer.Exit(EXIT_STOPPED) from error
    except (FaceatlasError, PermissionError) as error:
        print(f"faceatlas: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    except Exception as error:
        cause = _cause(error)
        if cause is None:
            raise
        print(
            f"faceatlas: the run failed: {cause}\nCompleted work is kept; run the same command again to continue.",
            file=sys.stderr,
        )
        raise typer.Exit(1) from error


def _cause(error: Exception) -> BaseException | None:
    """The failure of Ray, of a task on it, or of the storage; None: a bug of ours, whose traceback is shown."""
    if "ray" in sys.modules:  # Ray is loaded by runs that have work
        from ray.exceptions import RayError, RayTaskError

        if isinstance(error, RayError):
            return error.cause if isinstance(error, RayTaskError) else error
    return error if is_storage_error(error) else None
