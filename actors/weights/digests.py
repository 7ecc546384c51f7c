"""SHA-256 of weight files, taken once per file and machine and not once per process.

Eight actors that start on one machine would each read 550 MB for a digest that has not changed. So it is noted in the
cache folder, and not beside the file, since weights often lie on shares that cannot be written. A note holds for the
file's size and time of change.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

from actors.weights.state_dict import digest

_NOTED_BYTES = 8 << 20  # smaller files are read faster than a note is found
# As in git's index: a file that changed this recently could change once more within one tick of the file system's
# clock, and its note would hold for bytes that it never saw.
_SETTLED_S = 2.0


def cache_folder(cache: str | None) -> Path:
    """The folder for files of mirrors and for notes: as configured, else the user's."""
    return Path(cache) if cache is not None else Path.home() / ".cache" / "faceatlas"


def noted_digest(path: Path, cache: str | None = None) -> str:
    """SHA-256 of a file, 64 hex digits: as noted on this machine, else of its bytes.

    Args:
        path: the file.
        cache: cache folder.

    Raises:
        MissingWeightsError: there is no such file.
    """
    if not path.is_file() or path.stat().st_size < _NOTED_BYTES:
        return digest(path)
    state = path.stat()
    identity: dict[str, Any] = {"path": str(path.resolve()), "size": state.st_size, "mtime_ns": state.st_mtime_ns}
    name = hashlib.sha256(identity["path"].encode()).hexdigest()[:16]
    note = cache_folder(cache) / "digests" / f"{name}.json"
    if (known := read_json(note)) is not None and identity.items() <= known.items():
        return str(known["sha256"])
    sha256 = digest(path)
    if time.time() - state.st_mtime >= _SETTLED_S and path.stat().st_mtime_ns == state.st_mtime_ns:
        with contextlib.suppress(OSError):  # a machine without a cache folder takes the digest again each time
            write_json(note, {**identity, "sha256": sha256})
    return sha256


def read_json(path: Path) -> dict[str, Any] | None:
    """An object of a JSON file; None if there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file so that it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    aside.write_text(json.dumps(content, indent=2) + "\n")
    aside.replace(path)
