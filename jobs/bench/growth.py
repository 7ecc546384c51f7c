"""Time and memory of clustering over the number of tracks, as a picture."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.options import exit_on_error
from pipeline.errors import ConfigError

#: lines of the picture: seconds on the left, gigabytes on the right
_SECONDS = {"neighbor_seconds": "neighbors (s)", "seconds": "the rest (s)"}


def read_results(path: Path) -> list[dict[str, Any]]:
    """Results of `python -m jobs.bench identities --json`, one a line, by rising number of tracks.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        results = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return sorted(results, key=lambda result: int(result["n"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no lines of `jobs.bench identities --json`: {error!r}") from error


def growth(
    results: Annotated[Path, typer.Argument(help="Lines of `identities --json`, for several numbers of tracks.")],
    plot: Annotated[Path, typer.Option(help="SVG or PNG to write.")],
) -> None:
    """Plot time and memory over the number of tracks.

    Example: python -m jobs.bench growth growth.jsonl --plot growth.svg
    """
    from matplotlib.figure import Figure

    with exit_on_error():
        rows = read_results(results)
    sizes = [row["n"] for row in rows]
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, label in _SECONDS.items():
        axes.plot(sizes, [row[name] for row in rows], "o-", label=label)
    axes.plot(sizes, [row["peak_mb"] / 1024 for row in rows], "s--", label="memory above the data (GB)")
    axes.set(xscale="log", yscale="log", xlabel="tracks", ylabel="seconds, or GB")
    axes.grid(visible=True, which="major", alpha=0.4)
    axes.legend()
    figure.savefig(plot, metadata={"Date": None} if plot.suffix == ".svg" else None)
