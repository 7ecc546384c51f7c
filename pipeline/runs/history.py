"""What the records of earlier runs (OUT/runs/*.json) say."""

import json
from collections.abc import Iterator
from typing import Any

from pipeline.storage.output import Output


def read_runs(output: Output) -> Iterator[dict[str, Any]]:
    """Records of the runs, the latest first."""
    try:
        found = output.fs.ls(output.path("runs"), detail=False)
    except FileNotFoundError:
        return
    for path in sorted(map(str, found), reverse=True):
        if path.endswith(".json"):
            yield json.loads(output.fs.cat_file(path))


def recorded_revisions(output: Output) -> dict[str, str]:
    """Hub repository -> commit that the latest run with a file of it used; none for a new output.

    A run that does not follow its models keeps to these, so that an upgrade is a decision.
    """
    revisions: dict[str, str] = {}
    for run in read_runs(output):
        for model in run.get("models", {}).values():
            for file in model.get("files", {}).values():
                place = str(file.get("place", ""))
                if place.startswith("hub:") and "@" in place:
                    repo, _, commit = place.removeprefix("hub:").rpartition("@")
                    revisions.setdefault("/".join(repo.split("/")[:2]), commit)
    return revisions


def faces_versions(output: Output, slot: str, version: str) -> set[str]:
    """Versions of `faces` on which runs have computed this version of another slot's table."""
    runs = [run.get("versions", {}) for run in read_runs(output)]
    return {versions["face"] for versions in runs if versions.get(slot) == version and "face" in versions}
