"""Records of earlier runs (OUT/runs/*.json), also those of 0.1."""

import json
from collections.abc import Iterator
from typing import Any

from pipeline import schema
from pipeline.storage.output import Output


def read_runs(output: Output) -> Iterator[dict[str, Any]]:
    """Records of the runs, the latest first, all in the form in which record.py writes them."""
    try:
        found = output.fs.ls(output.path("runs"), detail=False)
    except FileNotFoundError:
        return
    for path in sorted(map(str, found), reverse=True):
        if path.endswith(".json"):
            yield _upgrade(json.loads(output.fs.cat_file(path)))


def _upgrade(record: dict[str, Any]) -> dict[str, Any]:
    """A record in its present form: 0.1 had other names, and the versions of slots and tables in one dict."""
    for model in record.get("models", {}).values():
        if "licence" in model:
            model.setdefault("license", model.pop("licence"))
    for old, new in (("unaccounted", "missing"), ("held_back", "pending")):
        if old in record:
            record.setdefault(new, record.pop(old))
    if "tables" not in record:
        versions = record.get("versions", {})
        record["versions"] = {slot: version for slot, version in versions.items() if slot in schema.SLOTS}
        record["tables"] = {schema.TABLE_OF_SLOT.get(name, name): version for name, version in versions.items()}
    return record


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
    runs = [run["versions"] for run in read_runs(output)]
    return {versions["face"] for versions in runs if versions.get(slot) == version and "face" in versions}
