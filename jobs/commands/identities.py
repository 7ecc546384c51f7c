"""`faceatlas identities`: overrides, scores against a truth, and the threshold of a model."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer

from jobs.options import ConfigOption, OutArgument, SetOption, exit_on_error
from pipeline.config.models import load_config
from pipeline.errors import ConfigError
from pipeline.identity.lineage import resolve_id
from pipeline.identity.overrides import ANCHORS, Override, add_override
from pipeline.identity.scores import score_clusters
from pipeline.storage.output import open_output
from pipeline.tables import parquet

app = typer.Typer(help="Correct, score and calibrate identities.", no_args_is_help=True)
IdArgument = Annotated[
    str, typer.Argument(help="identity_id; an id that was merged into another is resolved to that one.")
]
FalseAccepts = Annotated[float, typer.Option(min=1e-9, max=0.5, help="Share of impostors that may pass.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


class _Known:
    """The current tracks and identities."""

    def __init__(self, out: str, config: Path | None, assignments: list[str] | None) -> None:
        self.options = load_config(config, assignments or []).storage.options
        columns = ["track_id", "identity_id", "quality", "faces"]
        self.tracks = parquet.read_table(out, "tracks", columns, self.options)
        self.living = set(
            parquet.read_table(out, "identities", ["identity_id"], self.options)["identity_id"].to_pylist()
        )
        self.lineage = parquet.read_table(out, "lineage", None, self.options)
        self.output = open_output(out, self.options)

    def resolve(self, identity_id: str) -> str:
        try:
            return resolve_id(identity_id, self.lineage, self.living)
        except KeyError as error:
            raise ConfigError(str(error.args[0])) from error

    def tracks_of(self, identity_id: str) -> list[str]:
        """All its tracks, by falling quality, faces and id."""
        rows = self.tracks.filter(pc.equal(self.tracks["identity_id"], self.resolve(identity_id)))
        order = [("quality", "descending"), ("faces", "descending"), ("track_id", "ascending")]
        return rows.sort_by(order)["track_id"].to_pylist()


def _say(text: str) -> None:
    print(f"{text}; the next `faceatlas annotate` of this output applies it")


@app.command("list")
def list_identities(out: OutArgument, config: ConfigOption = None, assignments: SetOption = None,
              as_json: JsonOption = False) -> None:  # fmt: skip
    """Print the identities, those with most faces first.

    Example: faceatlas identities list out/
    """
    columns = ["identity_id", "name", "faces", "tracks", "clips"]
    with exit_on_error():
        options = load_config(config, assignments or []).storage.options
        rows = parquet.read_table(out, "identities", columns, options)
        rows = rows.sort_by([("faces", "descending"), ("identity_id", "ascending")]).to_pylist()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        called = f" {row['name']}" if row["name"] else ""
        print(f"{row['identity_id']}{called}: {row['faces']} faces in {row['tracks']} tracks of {row['clips']} clips")
    print(f"{len(rows)} identities")


@app.command()
def merge(out: OutArgument, ids: Annotated[list[str], typer.Argument(help="Two or more identities.")],
          config: ConfigOption = None, assignments: SetOption = None) -> None:  # fmt: skip
    """Merge identities that show the same person.

    Example: faceatlas identities merge out/ 1f6a0c2b9d3e4f58 77a0bb12c3d4e5f6
    """
    with exit_on_error():
        known = _Known(out, config, assignments)
        if len({known.resolve(i) for i in ids}) < 2:
            raise ConfigError(f"identities merge: give two different identities, found {', '.join(ids)}")
        anchors = [track for identity in ids for track in known.tracks_of(identity)[:ANCHORS]]
        add_override(known.output, Override(kind="merge", tracks=tuple(anchors)))
        _say(f"{len(ids)} identities will be merged")


@app.command()
def split(out: OutArgument, identity: IdArgument,
          tracks: Annotated[list[str], typer.Argument(help="Its tracks that show another person.")],
          config: ConfigOption = None, assignments: SetOption = None) -> None:  # fmt: skip
    """Split tracks that show another person off an identity.

    Example: faceatlas identities split out/ 1f6a0c2b9d3e4f58 0a1b2c3d4e5f6071
    """
    with exit_on_error():
        known = _Known(out, config, assignments)
        members = known.tracks_of(identity)
        if strange := sorted(set(tracks) - set(members)):
            raise ConfigError(f"identities split: {identity} has no track {', '.join(strange)}")
        rest = [track for track in members if track not in set(tracks)]
        if not rest:
            raise ConfigError(f"identities split: cannot split off every track of {identity}: at least one must remain")
        add_override(known.output, Override(kind="split", tracks=tuple(sorted(tracks)), others=tuple(rest[:ANCHORS])))
        _say(f"{len(set(tracks))} tracks will be split off {identity}")


@app.command()
def name(out: OutArgument, identity: IdArgument,
         called: Annotated[str, typer.Argument(help="The name; empty removes it.")],
         config: ConfigOption = None, assignments: SetOption = None) -> None:  # fmt: skip
    """Give an identity a name.

    Example: faceatlas identities name out/ 1f6a0c2b9d3e4f58 "the host"
    """
    with exit_on_error():
        known = _Known(out, config, assignments)
        anchors = tuple(known.tracks_of(identity)[:ANCHORS])
        add_override(known.output, Override(kind="name", tracks=anchors, name=called))
        _say(f"{identity} will be called {called!r}")


@app.command()
def calibrate(out: OutArgument, false_accepts: FalseAccepts = 1e-4,
              config: ConfigOption = None, assignments: SetOption = None,
    as_json: JsonOption = False) -> None:  # fmt: skip
    """Estimate the model's threshold from the corpus itself, with a confidence interval.

    Co-occurring tracks are certainly two people; the halves of one track are certainly one.

    Example: faceatlas identities calibrate out/
    """
    from pipeline.identity.calibrate import calibrate_output  # with scipy.stats, which takes a second to load

    with exit_on_error():
        found = calibrate_output(out, false_accepts, load_config(config, assignments or []).storage.options)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    print(f"threshold {found.threshold:.3f} (95 %: {found.low:.3f} to {found.high:.3f}), {found.how}")
    print(f"accepts {found.accepted:.3f} of {found.genuine} halves of one track; {found.impostors} co-occurring pairs")


@app.command()
def score(out: OutArgument, truth: Annotated[Path, typer.Argument(help="CSV: clip_id or track_id, and person.")],
          config: ConfigOption = None, assignments: SetOption = None,
          as_json: JsonOption = False) -> None:  # fmt: skip
    """Compare the identities with a truth: B-cubed and pairwise precision, recall and F over tracks.

    A truth by clip_id holds for every track of the clip. Tracks without a truth do not count; tracks without an
    identity count as alone.

    Example: faceatlas identities score out/ truth.csv
    """
    with exit_on_error():
        options = load_config(config, assignments or []).storage.options
        tracks = parquet.read_table(out, "tracks", ["track_id", "clip_id", "identity_id"], options)
        key, person_of = read_truth(truth)
        scores = score_clusters(*labels_of(tracks, key, person_of))
    result = {"tracks": len(labels_of(tracks, key, person_of)[0]), **scores.rounded()}
    print(json.dumps(result) if as_json else "\n".join(f"{name}: {value}" for name, value in result.items()))


def read_truth(path: Path) -> tuple[str, dict[str, str]]:
    """The key's column, `track_id` or `clip_id`, and the person of each key.

    Raises:
        ConfigError: the file cannot be read or lacks the columns.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ConfigError(f"cannot read the truth {path}: {error}") from error
    columns = list(rows[0]) if rows else []
    key = next((name for name in ("track_id", "clip_id") if name in columns), None)
    if key is None or "person" not in columns:
        raise ConfigError(f"the truth {path} needs the columns person and track_id or clip_id, found {columns}")
    return key, {row[key]: row["person"] for row in rows}


def labels_of(tracks: pa.Table, key: str, person_of: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Cluster (-1: none) and person of each track that has a truth, as numbers."""
    rows = [row for row in tracks.to_pylist() if row[key] in person_of]
    if not rows:
        raise ConfigError(f"no {key} of the truth is in this output; compare them with the table tracks")
    clusters: dict[str | None, int] = {None: -1}
    people: dict[str, int] = {}
    cluster_N = [clusters.setdefault(row["identity_id"], len(clusters)) for row in rows]
    person_N = [people.setdefault(person_of[row[key]], len(people)) for row in rows]
    return np.array(cluster_N), np.array(person_N)
