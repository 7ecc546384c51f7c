"""Verification of weight files: digests of a mirror or a cache are recomputed and compared with their records."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from actors.weights import cache as weight_cache
from actors.weights.cache import cache_folder, read_json
from actors.weights.mirror import MANIFEST, Mirror
from actors.weights.registry import Outcome, RegistryEntry, registry_entries

_BLOCK_BYTES = 8 << 20


def verify_mirror(mirror: Mirror, entries: Sequence[RegistryEntry] | None = None) -> Iterator[Outcome]:
    """Recompute the digests of a mirror's files and compare them with its records.

    Args:
        mirror: the mirror.
        entries: files that must be there; None: those on record, and those of known models that the mirror has.

    Yields:
        One outcome per file: `ok`, `differs`, `missing`, or `unrecorded` if it is there and not on record.
    """
    fs, _ = weight_cache.open_storage(mirror.uri, mirror.options)

    def is_there(path: str) -> bool:
        return bool(fs.exists(weight_cache.open_storage(mirror.file(path), mirror.options)[1]))

    if entries is None:
        known = [path for entry in registry_entries() for path in entry.paths]
        names = sorted({*mirror.records, *(path for path in known if is_there(path))})
    else:
        names = [
            next((path for path in entry.paths if path in mirror.records or is_there(path)), entry.paths[0])
            for entry in entries
        ]
    for name in dict.fromkeys(names):
        record = mirror.records.get(name)
        _, path = weight_cache.open_storage(mirror.file(name), mirror.options)
        if record is None:
            yield (
                Outcome(name, "unrecorded", f"{MANIFEST} has no record of it")
                if is_there(name)
                else Outcome(name, "missing", "no such file")
            )
            continue
        try:
            sha256, size = weight_cache.retrying(lambda path=path: _stream_digest(fs, path))  # type: ignore[misc]
        except FileNotFoundError:
            yield Outcome(name, "missing", "no such file, though it is on record")
            continue
        except Exception as error:  # every storage has errors of its own
            yield Outcome(name, "missing", f"unreadable: {str(error) or type(error).__name__}")
            continue
        yield _compare(name, sha256, size, record.sha256)


def _stream_digest(fs: Any, path: str) -> tuple[str, int]:
    sha256, size = hashlib.sha256(), 0
    with fs.open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            sha256.update(block)
            size += len(block)
    return sha256.hexdigest(), size


def _compare(name: str, sha256: str, size: int, recorded: str) -> Outcome:
    if sha256 == recorded:
        return Outcome(name, "ok", size=size)
    return Outcome(name, "differs", f"checksum mismatch: SHA-256 {sha256}, recorded {recorded}", size)


def verify_cache(cache: str | None = None, entries: Sequence[RegistryEntry] | None = None) -> Iterator[Outcome]:
    """Recompute the digests of the files cached on this machine and compare them with those of their origin.

    The hub's cache names each file after the hub's own digest; copies of a mirror's files have theirs noted beside.

    Args:
        cache: cache folder.
        entries: hub files that must be there; None: whatever is there.

    Yields:
        One outcome per file, as `verify_mirror`.
    """
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    repos = {entry.file.repo for entry in (registry_entries() if entries is None else entries)}
    seen: set[str] = set()
    try:
        held = [repo for repo in scan_cache_dir(weight_cache.hub_cache(cache)).repos if repo.repo_id in repos]
    except CacheNotFound:
        held = []
    for repo in sorted(held, key=lambda repo: repo.repo_id):
        for revision in repo.revisions:
            for file in sorted(revision.files, key=lambda file: file.file_name):
                seen.add(f"{repo.repo_id}/{file.file_name}")
                yield _verify_blob(str(file.file_path), file.blob_path)
    for note in sorted(cache_folder(cache).glob("*/origin.json")):
        if entries is None and (origin := read_json(note)) is not None:
            copy = note.with_name(origin["uri"].rsplit("/", 1)[-1])
            if copy.is_file():
                yield _compare(str(copy), *_digest_and_size(copy), origin["sha256"])
    for entry in entries or ():
        if not seen.intersection(entry.paths):
            yield Outcome(entry.paths[0], "missing", "not in the cache of this machine")


def _digest_and_size(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size


def _verify_blob(name: str, blob: Path) -> Outcome:
    """Compare a file of the hub's cache with its name: SHA-256 of a large file, git's SHA-1 of a small one."""
    sha256, size = _digest_and_size(blob)
    if len(blob.name) == 64:
        return _compare(name, sha256, size, blob.name)
    if len(blob.name) == 40:
        sha1 = hashlib.sha1(b"blob %d\0" % size + blob.read_bytes(), usedforsecurity=False).hexdigest()
        if sha1 == blob.name:
            return Outcome(name, "ok", size=size)
        return Outcome(name, "differs", f"checksum mismatch: git SHA-1 {sha1}, recorded {blob.name}", size)
    return Outcome(name, "unrecorded", "the hub's cache has no digest of it", size)
