"""Getting weight files: from the hub, from a mirror laid out like it, or from any URI."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from actors.errors import MissingWeightsError


@dataclass(frozen=True)
class FileRef:
    """A weight file that has been found: enough for any machine to get the same bytes.

    Attributes:
        uri: where it lies, if it is not fetched from the hub.
        package: path below the package `actors`, if it ships with Faceatlas.
        repo: hub repository, else None.
        name: file name in the repository.
        revision: the resolved commit.
        digest: SHA-256 of the bytes, hex.
    """

    digest: str
    uri: str | None = None
    repo: str | None = None
    name: str | None = None
    revision: str | None = None
    package: str | None = None

    @property
    def place(self) -> str:
        """The file's place, for messages and run records."""
        if self.package is not None:
            return f"package:{self.package}"
        return self.uri if self.uri is not None else f"hub:{self.repo}/{self.name}@{self.revision}"


def fetch_uri(uri: str, cache: str | None = None) -> Path:
    """A local path with the bytes of `uri` (a path, `file://`, or any fsspec URI, which is copied to the cache once).

    Raises:
        FileNotFoundError: there is no such file.
    """
    import fsspec
    from filelock import FileLock

    if "://" not in uri or uri.startswith("file://"):
        path = Path(uri.removeprefix("file://"))
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        return path
    folder = Path(cache or Path.home() / ".cache" / "faceatlas") / hashlib.sha256(uri.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / uri.rsplit("/", 1)[-1]
    # many actors of one machine start at once: the first downloads, the others find the file
    with FileLock(folder / ".lock"):
        if not target.exists():
            fs, path = fsspec.core.url_to_fs(uri)
            if not fs.exists(path):
                raise FileNotFoundError(f"no file {uri}")
            part = folder / ".part"
            fs.get_file(path, str(part))
            part.replace(target)
    return target


def fetch_hub(repo: str, names: tuple[str, ...], revision: str | None) -> tuple[Path, str, str]:
    """Download a file of a hub repository (or find it in the hub's cache).

    Returns:
        Local path, the name under which it was found, the resolved commit.

    Raises:
        MissingWeightsError: not there under any name, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    for name in names:
        try:
            path = Path(hf_hub_download(repo_id=repo, filename=name, revision=revision))
        except LocalEntryNotFoundError as error:  # a subclass of EntryNotFoundError, but it means: no connection
            raise MissingWeightsError(f"the hub cannot be reached ({error.__cause__ or error})") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise MissingWeightsError(f"the hub refused or failed ({error})") from error
        return path, name, path.parent.name if path.parent.parent.name == "snapshots" else revision or "unknown"
    raise MissingWeightsError(f"the repository has no file {' or '.join(names)}")


def fetch(ref: FileRef, cache: str | None = None) -> Path:
    """Local path of a found file, on whatever machine this runs.

    Raises:
        MissingWeightsError: it is not there any more.
    """
    try:
        if ref.package is not None:
            return Path(__file__).parent / ref.package
        if ref.uri is not None:
            return fetch_uri(ref.uri, cache)
        if ref.repo is None or ref.name is None:
            raise MissingWeightsError("a weight file without a place")
        return fetch_hub(ref.repo, (ref.name,), ref.revision)[0]
    except FileNotFoundError as error:
        raise MissingWeightsError(
            f"weight file {ref.place} was there when the run started and is not on {_host()}"
        ) from error


def _host() -> str:
    return os.uname().nodename
