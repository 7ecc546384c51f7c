"""Identities of real pictures and videos with ground truth: scores, and every error by name.

The folder is the one beside the checkout (its README names the people): `images` with pairs and folders
named after people, `videos`. Pictures are clips of one frame, so their tracks have a single face, and none is needed
more to found an identity. All pictures are clustered together; they are scored by source, since whether a person of
one source is also in another is not known. Nor is it said of every pair of deepface_pairs: people whom no row joins
are taken for different.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from jobs.options import exit_on_error
from pipeline import schema
from pipeline.config.models import IdentitiesConfig, TracksConfig
from pipeline.errors import ConfigError
from pipeline.identity.assign import cluster_tracks
from pipeline.identity.scores import score_clusters
from pipeline.tracking.faces import unit_embeddings
from pipeline.tracking.link import link_shard

PAIRS = "deepface_pairs"
#: sources whose folders are people
FOLDERS = ("face_recognition_knn/train", "keras_facenet_images", "openface_examples")
#: videos of one person, after the README of the data; every other video is of somebody else, no_face.mp4 of nobody
SAME_PERSON = [
    ("single_face.mp4", "face_noface.mov", "noface_face.mov"),
    ("grid_id2_vcd_swwp2s.mpg", "grid_pwij3p.mpg"),
]
NOBODY = "no_face.mp4"


@dataclass(frozen=True)
class Item:
    """A file with a known person; `source` is what it is scored with."""

    folder: Path
    name: str  # of the file below the folder
    source: str
    person: str


def list_pictures(data: Path) -> list[Item]:
    """The pictures of one known person each.

    Raises:
        ConfigError: there is no such folder.
    """
    images = data / "images"
    if not images.is_dir():
        raise ConfigError(f"{data} holds no folder images with pictures whose truth is known")
    items = [
        Item(images, f"{PAIRS}/{name}", PAIRS, person) for name, person in sorted(_people_of_pairs(images / PAIRS))
    ]
    for source in FOLDERS:
        for path in sorted((images / source).rglob("*.jp*g")):
            # openface_examples/lennon-1.jpg; longoria-cooper.jpg is of two people
            person = path.stem.split("-")[0] if source == "openface_examples" else path.parent.name
            if person != "Test" and path.stem != "longoria-cooper":
                items.append(Item(images, str(path.relative_to(images)), source, person))
    return items


def _people_of_pairs(folder: Path) -> Iterator[tuple[str, str]]:
    """Picture and person, the person named by the first picture of those that rows with a Yes join."""
    first: dict[str, str] = {}

    def find(name: str) -> str:
        while first.setdefault(name, name) != name:
            name = first[name]
        return name

    for table in sorted(folder.glob("*.csv")):
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                a, b = sorted(find(Path(row[key]).name) for key in ("file_x", "file_y"))
                if (row.get("Decision") or row.get("decision")) == "Yes":
                    first[b] = a
    for name in list(first):
        yield name, Path(find(name)).stem


def list_videos(data: Path) -> list[Item]:
    """The videos, one person each."""
    person_of = {name: Path(names[0]).stem for names in SAME_PERSON for name in names}
    names = sorted(path.name for path in (data / "videos").iterdir() if path.name != NOBODY)
    return [Item(data, f"videos/{name}", "videos", person_of.get(name, Path(name).stem)) for name in names]


def find_tracks(items: Sequence[Item], bundle: str, every: int) -> pa.Table:
    """Tracks of the files, schema.TRACKS; `clip_id` is the number of the file."""
    from actors import FaceAnalyzer  # torch is not needed by the other measurements of this module's command

    analyzer = FaceAnalyzer(bundle)
    faces = pa.concat_tables(
        table.set_column(0, "clip_id", pa.array([f"{i:06d}"] * table.num_rows, pa.string()))
        for i, item in enumerate(items)
        for table in analyzer.stream(item.folder / item.name, every)
    )
    return link_shard(faces, faces, "real", TracksConfig())


def judge(items: Sequence[Item], tracks: pa.Table, cosine: float, config: IdentitiesConfig) -> dict[str, Any]:
    """Cluster the tracks and compare with the truth, source by source.

    Of a picture its best track counts, by quality; of a video every track that is in an identity does.
    """
    who = cluster_tracks(tracks, cosine, config)
    rows = tracks.set_column(
        tracks.column_names.index("identity_id"), schema.TRACKS.field("identity_id"), who.identity_of_track
    )
    unit_ND, _ = unit_embeddings(rows["embedding"])
    counted: defaultdict[str, list[int]] = defaultdict(list)
    found = rows.select(["clip_id", "quality", "identity_id"]).to_pylist()
    best: dict[int, int] = {}
    for row, track in enumerate(found):
        number = int(track["clip_id"])
        if items[number].source == "videos":
            if track["identity_id"] is not None:
                counted["videos"].append(row)
        elif number not in best or track["quality"] > found[best[number]]["quality"]:
            best[number] = row
    for number, row in best.items():
        counted[items[number].source].append(row)
    seen = {int(track["clip_id"]) for track in found}
    result: dict[str, Any] = {"no face was found in": [item.name for i, item in enumerate(items) if i not in seen]}
    for source, places in sorted(counted.items()):
        files = [items[int(found[row]["clip_id"])] for row in places]
        clusters, people = [found[row]["identity_id"] for row in places], [item.person for item in files]
        numbers = {name: i for i, name in enumerate(dict.fromkeys([*people, *clusters]))}
        cluster_N = np.array([-1 if c is None else numbers[c] for c in clusters])
        scores = score_clusters(cluster_N, np.array([numbers[p] for p in people]))
        names = [item.name for item in files]
        result[source] = {
            "tracks": len(places),
            "people": len(set(people)),
            "identities": len({c for c in clusters if c is not None}),
            **scores.rounded(4),
            "mistakes": list_mistakes(names, people, clusters, unit_ND[places]),
        }
    return result


def list_mistakes(
    names: Sequence[str], people: Sequence[str], clusters: Sequence[str | None], unit_ND: np.ndarray
) -> list[str]:
    """In words, one by one: who is apart from their person's largest group, and who is with somebody else.

    Each with the cosine to the closest file of the person, or of the other.
    """
    groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for i, (person, cluster) in enumerate(zip(people, clusters, strict=True)):
        groups[person, cluster or f"alone {i}"].append(i)
    main: dict[str, str] = {}
    owner: dict[str, str] = {}
    for (person, cluster), _ in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        main.setdefault(person, cluster)
        owner.setdefault(cluster, person)
    said = []
    for (person, cluster), rows in sorted(groups.items()):
        for i in rows:
            if cluster != main[person]:
                own = groups[person, main[person]]
                said.append(f"{names[i]} is apart from {person}{_closest(i, own, names, unit_ND)}")
            if owner[cluster] != person:
                other = groups[owner[cluster], cluster]
                said.append(f"{names[i]} ({person}) is with {owner[cluster]}{_closest(i, other, names, unit_ND)}")
    return said


def _closest(i: int, others: Sequence[int], names: Sequence[str], unit_ND: np.ndarray) -> str:
    cosine = unit_ND[list(others)] @ unit_ND[i]
    return f": cosine {cosine.max():.2f} to {names[others[int(cosine.argmax())]]}"


def threshold_of(bundle: str) -> float:
    """The bundle's `same_person_cosine`.

    Raises:
        ConfigError: it has none.
    """
    from actors.weights.bundles import resolve_bundle

    found = [m.same_person_cosine for m in resolve_bundle(bundle).models if m.same_person_cosine is not None]
    if not found:
        raise ConfigError(f"bundle {bundle} has no embedding model with a same_person_cosine")
    return found[0]


def real(
    data: Annotated[Path, typer.Option(help="Folder with images and videos whose people are known.")],
    bundle: Annotated[str, typer.Option(help="Whose detector and embeddings are judged.")],
    every: Annotated[int, typer.Option(min=1, help="Frame step of the videos.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Identities of real pictures and videos with ground truth: scores, and every error by name.

    Example: python -m jobs.bench real --data DATA --bundle BUNDLE
    """
    with exit_on_error():
        cosine = threshold_of(bundle)
        result: dict[str, Any] = {}
        for items, config, step in (
            (list_pictures(data), IdentitiesConfig(min_frames=1), 1),
            (list_videos(data), IdentitiesConfig(), every),
        ):
            result |= {
                name: result.get(name, []) + value if isinstance(value, list) else value
                for name, value in judge(items, find_tracks(items, bundle, step), cosine, config).items()
            }
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        _say(name, value)


def _say(name: str, value: list[str] | Mapping[str, Any]) -> None:
    if isinstance(value, list):
        print(f"{name}: {', '.join(value) or 'no file'}")
        return
    print(f"{name}: " + ", ".join(f"{key} {number}" for key, number in value.items() if key != "mistakes"))
    for mistake in value["mistakes"] or ["no mistake"]:
        print(f"  {mistake}")
