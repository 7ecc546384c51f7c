"""A mirror of the hub's weight files, for clusters without internet: <mirror>/<owner>/<repository>/<file>.

`mirror.json` at its top records each file's checksum, the commit that it was taken from, and its license. A mirror that
was copied by hand has none; it works too, but nothing is checked.
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.errors import WeightsError
from actors.weights import cache
from pipeline.storage.output import Output, write_bytes

MANIFEST = "mirror.json"


@dataclass(frozen=True)
class Record:
    """The record of a file in `mirror.json`.

    Attributes:
        sha256: of its bytes, hex.
        size: bytes.
        revision: commit of the hub repository that it was taken from.
        license: of the weights.
        research_only: the license forbids commercial use.
    """

    sha256: str
    size: int
    revision: str | None
    license: str
    research_only: bool


@dataclass(frozen=True)
class Mirror:
    """An opened mirror.

    Attributes:
        uri: its top folder, a path or any fsspec URI.
        options: for fsspec.
        records: path below the mirror -> record of the file; empty without `mirror.json`.
    """

    uri: str
    options: Mapping[str, Any]
    records: Mapping[str, Record]

    def file(self, path: str) -> str:
        """URI of a file of the mirror; `path` is relative to its top."""
        return f"{self.uri.rstrip('/')}/{path}"


def open_mirror(uri: str, options: Mapping[str, Any] | None = None) -> Mirror:
    """Open a mirror and read its records.

    Args:
        uri: its top folder, a path or any fsspec URI.
        options: for fsspec.

    Raises:
        WeightsError: its `mirror.json` cannot be read, or is not one.
    """
    location = f"{uri.rstrip('/')}/{MANIFEST}"
    try:
        fs, path = cache.open_storage(location, options)
        content = json.loads(cache.retrying(lambda: fs.cat_file(path)))
        records = {name: _to_record(record) for name, record in content["files"].items()}
    except FileNotFoundError:
        records = {}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WeightsError(f"{location} is not a list of a mirror's files ({error}); pull the mirror again") from error
    except Exception as error:  # every storage has errors of its own
        raise WeightsError(f"the mirror {uri} cannot be read: {str(error) or type(error).__name__}") from error
    return Mirror(uri, dict(options or {}), records)


def _to_record(entry: Mapping[str, Any]) -> Record:
    """An entry of `mirror.json`; before version 0.2 it named the license `licence`."""
    return Record(**{"license" if name == "licence" else name: value for name, value in entry.items()})


def put_file(mirror_uri: str, name: str, path: Path, record: Record, options: Mapping[str, Any] | None = None) -> bool:
    """Copy a file into a mirror and record it; returns False if it was there and on record already.

    Not safe for two writers of one mirror at the same time: each may lose the other's records.

    Args:
        mirror_uri: the mirror, a path or any fsspec URI.
        name: path below the mirror.
        path: the file.
        record: of the file.
        options: for fsspec.

    Raises:
        WeightsError: the mirror cannot be read or written.
    """
    mirror = open_mirror(mirror_uri, options)
    fs, target = cache.open_storage(mirror.file(name), options)
    try:
        if mirror.records.get(name) == record and fs.exists(target) and fs.size(target) == record.size:
            return False
        cache.retrying(lambda: _upload(fs, path, target))
        records = {**mirror.records, name: record}
        text = json.dumps({"files": {key: asdict(value) for key, value in sorted(records.items())}}, indent=2) + "\n"
        top = Output(*cache.open_storage(mirror_uri.rstrip("/"), options))
        cache.retrying(lambda: write_bytes(top, MANIFEST, text.encode()))
    except Exception as error:  # every storage has errors of its own
        raise WeightsError(f"cannot write {mirror.file(name)}: {str(error) or type(error).__name__}") from error
    return True


def _upload(fs: Any, path: Path, target: str) -> None:
    """Copy a file into the mirror atomically (on an object store any upload is)."""
    if "file" not in fs.protocol:
        fs.put_file(str(path), target)
        return
    aside = Path(target).with_name(f".{Path(target).name}.{os.getpid()}.{secrets.token_hex(4)}")
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, aside)
    aside.replace(target)
