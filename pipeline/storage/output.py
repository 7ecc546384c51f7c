"""An output folder on any fsspec storage, with atomic writes."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


@dataclass(frozen=True)
class Output:
    """An output folder: an fsspec filesystem and the folder's path on it."""

    fs: fsspec.AbstractFileSystem
    root: str

    def path(self, *parts: str) -> str:
        """Full path of something inside the output."""
        return "/".join([self.root, *parts])

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return bool(self.fs.exists(self.path(*parts)))


def open_output(out: str, storage_options: Mapping[str, Any] | None = None) -> Output:
    """Open an output folder, which need not exist yet, on any fsspec URI."""
    fs, root = fsspec.core.url_to_fs(out, use_listings_cache=False, **(storage_options or {}))
    return Output(fs, str(root).rstrip("/"))


def write_bytes(output: Output, path: str, data: bytes) -> None:
    """Write a file atomically; an existing file is replaced.

    Args:
        output: where.
        path: relative to the output.
        data: the file's bytes.
    """
    full = output.path(path)
    if not isinstance(output.fs, LocalFileSystem):
        output.fs.pipe_file(full, data)
        return
    target = Path(full)
    target.parent.mkdir(parents=True, exist_ok=True)
    # a leading dot keeps readers such as pyarrow.dataset and DuckDB away from what a killed writer leaves behind
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(target)
