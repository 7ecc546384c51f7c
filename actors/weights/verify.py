"""Taking the digests of weight files anew, to see whether a mirror or a cache still holds what was put there."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from actors.weights import cache as weight_cache
from actors.weights.cache import cache_folder, read_json
from actors.weights.mirror import MANIFEST, Mirror
from actors.weights.published import Outcome, Published, published

_BLOCK_BYTES = 8 << 20


def verify_mirror(mirror: Mirror, items: Sequence[Published] | None = None) -> Iterator[Outcome]:
    """Take the digests of a mirror's files anew and compare them with its records.

    Args:
        mirror: the mirror.
        items: files that must be there; None: those that it has on record, and those of known models that lie in it.

    Yields:
        One outcome per file: `ok`, `differs`, `missing`, or `unrecorded` if it lies there and nothing is said of it.
    """
    fs, _ = weight_cache.open_storage(mirror.uri, mirror.options)

    def is_there(path: str) -> bool:
        return bool(fs.exists(weight_cache.open_storage(mirror.file(path), mirror.options)[1]))

    if items is None:
        known = [path for item in published() for path in item.paths]
        names = sorted({*mirror.records, *(path for path in known if is_there(path))})
    else:
        names = [
            next((path for path in item.paths if path in mirror.records or is_there(path)), item.paths[0])
            for item in items
        ]
    for name in dict.fromkeys(names):
        record = mirror.records.get(name)
        _, path = weight_cache.open_storage(mirror.file(name), mirror.options)
        if record is None:
            yield (
                Outcome(name, "unrecorded", f"{MANIFEST} says nothing of it")
                if is_there(name)
                else Outcome(name, "missing", "it is not there")
            )
            continue
        try:
            sha256, size = weight_cache.retrying(lambda path=path: _stream_digest(fs, path))  # type: ignore[misc]
        except FileNotFoundError:
            yield Outcome(name, "missing", "it is on record and is not there")
            continue
        except Exception as error:  # every storage has errors of its own
            yield Outcome(name, "missing", f"it cannot be read: {str(error) or type(error).__name__}")
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
    return Outcome(name, "differs", f"SHA-256 {sha256}, on record is {recorded}", size)


def verify_cache(cache: str | None = None, items: Sequence[Published] | None = None) -> Iterator[Outcome]:
    """Take the digests of the files cached on this machine anew and compare them with those of their origin.

    The hub's cache names each file after the hub's own digest; copies of a mirror's files have theirs noted beside.

    Args:
        cache: cache folder.
        items: hub files that must be there; None: whatever is there.
    """
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    repos = {item.file.repo for item in (published() if items is None else items)}
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
        if items is None and (origin := read_json(note)) is not None:
            copy = note.with_name(origin["uri"].rsplit("/", 1)[-1])
            if copy.is_file():
                yield _compare(str(copy), *_digest_and_size(copy), origin["sha256"])
    for item in items or ():
        if not seen.intersection(item.paths):
            yield Outcome(item.paths[0], "missing", "it is not in the cache of this machine")


def _digest_and_size(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size


def _verify_blob(name: str, blob: Path) -> Outcome:
    """Compare a file of the hub's cache with its name there: SHA-256 of a large file, git's SHA-1 of a small one."""
    sha256, size = _digest_and_size(blob)
    if len(blob.name) == 64:
        return _compare(name, sha256, size, blob.name)
    if len(blob.name) == 40:
        sha1 = hashlib.sha1(b"blob %d\0" % size + blob.read_bytes(), usedforsecurity=False).hexdigest()
        if sha1 == blob.name:
            return Outcome(name, "ok", size=size)
        return Outcome(name, "differs", f"git SHA-1 {sha1}, on record is {blob.name}", size)
    return Outcome(name, "unrecorded", "the hub's cache does not tell its digest", size)
