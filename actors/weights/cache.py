"""Downloads of weight files: from the hub, from a mirror laid out like it, or from any URI; each once per machine.

Digests are computed once per file and machine, not once per process: eight actors that start on one machine would each
read 550 MB for a digest that has not changed. They are noted in the cache folder and not beside the file, since weights
are often on shares that cannot be written. A note holds for the file's size and time of change.
"""

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from actors.errors import DigestError, MissingWeightsError, UnreachableError
from actors.weights.state_dict import file_digest
from pipeline.storage.output import Output, write_bytes

_NOTED_BYTES = 8 << 20  # smaller files are read faster than a note is found
# As in git's index: a file that changed this recently could change once more within one tick of the file system's
# clock, and its note would hold for bytes that it never saw.
_SETTLED_S = 2.0

RETRY_WAITS_S = (0.5, 2.0, 5.0)  # before each further attempt; storage that is throttled answers within seconds
_FINAL_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_FINAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

T = TypeVar("T")


@dataclass(frozen=True)
class Access:
    """Access of this machine to weight files.

    Attributes:
        cache: folder for copies; None: the hub's own cache folder, and the user's for other files.
        options: of the storage behind URIs, for fsspec.
        revisions: hub repository -> commit, for repositories whose card pins none.
    """

    cache: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileRef:
    """A located weight file: enough for any machine to fetch the same bytes.

    Attributes:
        digest: SHA-256 of the bytes, hex.
        uri: its location, if it is not fetched from the hub.
        repo: hub repository, also of a file of a mirror; else None.
        name: file name in the repository.
        revision: the resolved commit; None where a mirror has none on record.
        package: path below the package `actors`, if it ships with Faceatlas.
    """

    digest: str
    uri: str | None = None
    repo: str | None = None
    name: str | None = None
    revision: str | None = None
    package: str | None = None

    @property
    def location(self) -> str:
        """The file's location, for messages and run records."""
        if self.package is not None:
            return f"package:{self.package}"
        return self.uri if self.uri is not None else f"hub:{self.repo}/{self.name}@{self.revision}"


def retrying(call: Callable[[], T], waits_s: tuple[float, ...] | None = None) -> T:
    """The result of a call over the network, retried after transient errors.

    Args:
        call: may be called several times.
        waits_s: seconds before each retry, each up to doubled at random; None: RETRY_WAITS_S.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_chain, wait_random

    waits = [wait_random(wait_s, 2 * wait_s) for wait_s in (RETRY_WAITS_S if waits_s is None else waits_s)]
    attempts = Retrying(
        retry=retry_if_exception(_may_pass),
        wait=wait_chain(*waits),
        stop=stop_after_attempt(len(waits) + 1),
        reraise=True,
    )
    return attempts(call)


def _may_pass(error: BaseException) -> bool:
    """Whether an error of storage or network is transient."""
    import aiohttp
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):
        return False  # the hub's own client has tried for half a minute
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, aiohttp.ClientError):
        return _may_pass(error.__cause__)  # fsspec reports any answer but the file as a missing file
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and _is_busy(error.response.status_code)
    if isinstance(error, aiohttp.ClientResponseError):
        return _is_busy(error.status)
    if isinstance(error, aiohttp.ClientError):
        return True
    return isinstance(error, OSError) and not isinstance(error, _FINAL_ERRORS) and error.errno not in _FINAL_ERRNOS


def _refusal(error: FileNotFoundError) -> str | None:
    """The answer of a web server that fsspec reported as a missing file, if it was not "not found"."""
    import aiohttp

    cause = error.__cause__
    if not isinstance(cause, aiohttp.ClientError) or getattr(cause, "status", None) in (404, 410):
        return None
    return f"{cause.status} {cause.message}" if isinstance(cause, aiohttp.ClientResponseError) else str(cause)


def _is_busy(status: int) -> bool:
    return status >= 500 or status in (408, 429)


def open_storage(uri: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The fsspec file system of a path or URI, and the path in it; `options` are for remote storage only."""
    import fsspec

    if is_local(uri):
        return fsspec.filesystem("file"), str(Path(uri.removeprefix("file://")).absolute())
    return fsspec.core.url_to_fs(uri, use_listings_cache=False, **(options or {}))


def is_local(uri: str) -> bool:
    """Whether a path or URI is a file of this machine, which is read in place."""
    return "://" not in uri or uri.startswith("file://")


def fetch_uri(
    uri: str, cache: str | None = None, options: Mapping[str, Any] | None = None, expected: str | None = None
) -> Path:
    """A local path with the bytes of `uri`: of a local file its own, else of a copy in the cache.

    A copy is made once, also if several processes ask at the same time, and again when the file changes.

    Args:
        uri: a path, `file://`, or any fsspec URI.
        cache: cache folder.
        options: for fsspec.
        expected: SHA-256 that the bytes must have. With it a copy that is there already needs no network.

    Raises:
        FileNotFoundError: there is no such file.
        MissingWeightsError: it cannot be read, even after retries.
        DigestError: checksum mismatch of the copy. A local file is not checked here.
    """
    from filelock import FileLock

    if is_local(uri):
        path = Path(uri.removeprefix("file://"))
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        return path
    folder = cache_folder(cache) / hashlib.sha256(uri.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    target, note = folder / uri.rsplit("/", 1)[-1], folder / "origin.json"
    # many actors of one machine start at once: the first downloads, the others find the file
    with FileLock(folder / ".lock"):
        known = read_json(note) if target.exists() else None
        if known is not None and known["size"] != target.stat().st_size:
            known = None
        if known is not None and expected is not None and known["sha256"] == expected:
            return target
        try:
            fs, remote = open_storage(uri, options)
            info = retrying(lambda: fs.info(remote))
            fingerprint = _fingerprint(info)
            if known is None or known["fingerprint"] != fingerprint:
                sha256 = retrying(lambda: _download(fs, remote, info.get("size"), target))
                known = {"uri": uri, "fingerprint": fingerprint, "size": target.stat().st_size, "sha256": sha256}
                write_json(note, known)
        except FileNotFoundError as error:
            if (reason := _refusal(error)) is not None:
                raise MissingWeightsError(f"{uri} cannot be read: {reason}") from error
            raise FileNotFoundError(f"no file {uri}") from error
        except Exception as error:  # every storage has errors of its own
            raise MissingWeightsError(f"{uri} cannot be read: {str(error) or type(error).__name__}") from error
        if expected is not None and known["sha256"] != expected:
            raise DigestError(f"checksum mismatch of {uri}: SHA-256 {known['sha256']}, expected {expected}")
    return target


def _fingerprint(info: Mapping[str, Any]) -> str:
    """Detects changed bytes without reading them: the size, and the ETag or else the time of change."""
    marks = (info.get(name) for name in ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated"))
    return f"{info.get('size')} {next((mark for mark in marks if mark is not None), '')}"


def _download(fs: Any, path: str, size: int | None, target: Path) -> str:
    """Copy a remote file; returns its SHA-256."""
    part = target.with_name(".part")
    fs.get_file(path, str(part))
    if size is not None and part.stat().st_size != size:
        raise OSError(f"the download ended after {part.stat().st_size} of {size} bytes")
    sha256 = file_digest(part)
    part.replace(target)
    return sha256


def hub_cache(cache: str | None) -> str | None:
    """The hub's cache folder inside a configured cache folder; None: the hub's own default."""
    return str(Path(cache) / "hub") if cache is not None else None


def fetch_hub(
    repo: str, names: tuple[str, ...], revision: str | None, cache: str | None = None
) -> tuple[Path, str, str]:
    """Download a file of a hub repository, or take it from the hub's cache.

    Args:
        repo: `owner/name`.
        names: file names to try, in this order.
        revision: commit or branch; None: the default branch.
        cache: cache folder.

    Returns:
        Local path, the name that was there, the resolved commit.

    Raises:
        MissingWeightsError: there is no file of any of the names, or the hub refuses.
        UnreachableError: the hub does not answer, and there is no copy on this machine.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    def download(name: str) -> Path:
        # the hub's client holds a lock of its own per file while it downloads
        return Path(hf_hub_download(repo_id=repo, filename=name, revision=revision, cache_dir=hub_cache(cache)))

    for name in names:
        try:
            path = retrying(lambda name=name: download(name))  # type: ignore[misc]
        except LocalEntryNotFoundError as error:  # a subclass of EntryNotFoundError, but it means: no connection
            raise UnreachableError(f"the hub cannot be reached ({error.__cause__ or error})") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise MissingWeightsError(f"the hub refused or failed ({error})") from error
        parts = path.parts  # <cache>/models--<owner>--<repository>/snapshots/<commit>/<name>
        index = len(parts) - 1 - parts[::-1].index("snapshots") if "snapshots" in parts else None
        return path, name, parts[index + 1] if index is not None else revision or "unknown"
    raise MissingWeightsError(f"the repository has no file {' or '.join(names)}")


def fetch(ref: FileRef, cache: str | None = None, options: Mapping[str, Any] | None = None) -> Path:
    """Local path of a located file, on the machine that this runs on.

    Args:
        ref: the file.
        cache: cache folder.
        options: for fsspec.

    Raises:
        MissingWeightsError: it is gone.
        DigestError: checksum mismatch of the copy: the file has changed.
    """
    try:
        if ref.package is not None:
            return Path(__file__).parents[1] / ref.package
        if ref.uri is not None:
            return fetch_uri(ref.uri, cache, options, ref.digest)
        if ref.repo is None or ref.name is None:
            raise MissingWeightsError("a weight file without a location")
        return fetch_hub(ref.repo, (ref.name,), ref.revision, cache)[0]
    except FileNotFoundError as error:
        raise MissingWeightsError(
            f"weight file {ref.location} was available when the run started and is missing on {_host()}"
        ) from error


def _host() -> str:
    return os.uname().nodename


def cache_folder(cache: str | None) -> Path:
    """The folder for copies of mirrors' files and for notes of digests: as configured, else the user's."""
    return Path(cache) if cache is not None else Path.home() / ".cache" / "faceatlas"


def noted_digest(path: Path, cache: str | None = None) -> str:
    """SHA-256 of a file, 64 hex digits: as noted on this machine, else computed from its bytes.

    Args:
        path: the file.
        cache: cache folder.

    Raises:
        MissingWeightsError: there is no such file.
    """
    if not path.is_file() or path.stat().st_size < _NOTED_BYTES:
        return file_digest(path)
    state = path.stat()
    identity: dict[str, Any] = {"path": str(path.resolve()), "size": state.st_size, "mtime_ns": state.st_mtime_ns}
    name = hashlib.sha256(identity["path"].encode()).hexdigest()[:16]
    note = cache_folder(cache) / "digests" / f"{name}.json"
    if (known := read_json(note)) is not None and identity.items() <= known.items():
        return str(known["sha256"])
    sha256 = file_digest(path)
    if time.time() - state.st_mtime >= _SETTLED_S and path.stat().st_mtime_ns == state.st_mtime_ns:
        with contextlib.suppress(OSError):  # a machine without a cache folder computes the digest each time
            write_json(note, {**identity, "sha256": sha256})
    return sha256


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if it is missing, damaged or not an object."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_bytes(Output(LocalFileSystem(), str(path.parent)), path.name, (json.dumps(content, indent=2) + "\n").encode())
