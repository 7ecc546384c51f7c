"""`python -m jobs.bench`: measurements, each a command of its own."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from jobs.bench import flow, growth, hog, img2pose, memory, peer, ranges, real, scaling, speed, standins, upgrade
from jobs.bench import identities as bench_identities

app = typer.Typer(help="Measure Faceatlas on this machine.", no_args_is_help=True, pretty_exceptions_enable=False)
for command in (
    speed.decode,
    speed.actor,
    speed.models,
    flow.loop,
    flow.pipeline,
    flow.engine,
    flow.short,
    memory.memory,
    upgrade.upgrade,
    peer.peer,
    scaling.scaling,
    scaling.corpus,
    standins.standins,
    hog.hog,
    img2pose.img2pose,
    real.real,
    growth.growth,
    ranges.ranges,
):
    app.command()(command)


@app.command()
def identities(
    embeddings: Annotated[Path | None, typer.Option(help=".npz with X, y, quality and cl.")] = None,
    make: Annotated[str | None, typer.Option(help="Make tracks instead: celebv or ms1m.")] = None,
    n: Annotated[int, typer.Option(min=1, help="Tracks to make.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the tracks that are made.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Write the tracks that are made to this .npz.")] = None,
    exact_up_to: Annotated[
        int, typer.Option(help="Above so many tracks neighbors are approximate.")
    ] = bench_identities.EXACT_UP_TO,
    compare: Annotated[bool, typer.Option(help="The reference's three methods beside it.")] = False,
    grow: Annotated[
        float | None, typer.Option(min=0.001, help="Add this share of new tracks to a clustering of the others.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Cluster tracks with known truth: scores, seconds and memory; with --grow, of tracks that come later.

    Example: python -m jobs.bench identities --make celebv --n 20000 --seed 0 --compare --json
    """
    if (embeddings is None) == (make is None):
        raise typer.BadParameter("give either --embeddings FILE.npz or --make celebv|ms1m")
    if make not in (None, "celebv", "ms1m"):
        raise typer.BadParameter(f"--make {make}: there are celebv and ms1m")
    tracks = (
        bench_identities.read_tracks(embeddings) if embeddings else bench_identities.make_tracks(make or "", n, seed)
    )
    if save is not None:
        np.savez(save, X=tracks["X"], y=tracks["y"], quality=tracks["quality"], cl=tracks["cl"])
    if grow is not None:
        result = bench_identities.grow(tracks, grow, exact_up_to)
    else:
        result = bench_identities.measure_clustering(tracks, exact_up_to)
    if compare:
        result["reference"] = bench_identities.compare_references(tracks)
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    app()
