"""Faces in videos as tables: annotate a corpus, read what was found, analyze single files.

    faceatlas.annotate("videos/", "out/")                    a run; returns its report
    faceatlas.plan("videos/", "out/")                        what a run would do
    faceatlas.read_table("out/", "faces")                    a table of an output, for Arrow, pandas or DuckDB
    faceatlas.FaceAnalyzer("pyfeat").detect("clip.mp4")      a few files, without Ray

Every error raised on purpose is a `FaceatlasError`. Names are imported when they are first used, so `import faceatlas`
loads neither torch nor Ray.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.analyzer import FaceAnalyzer
    from actors.errors import (
        BundleError,
        DigestError,
        MissingWeightsError,
        ModelError,
        StateDictError,
        UnreachableError,
        WeightsError,
    )
    from faceatlas.runs import annotate, plan
    from pipeline.errors import (
        ClipError,
        ConfigError,
        FaceatlasError,
        LeaseError,
        ManifestError,
        OutputError,
        StoppedError,
    )
    from pipeline.tables.parquet import read_table

__all__ = [
    "BundleError",
    "ClipError",
    "ConfigError",
    "DigestError",
    "FaceAnalyzer",
    "FaceatlasError",
    "LeaseError",
    "ManifestError",
    "MissingWeightsError",
    "ModelError",
    "OutputError",
    "StateDictError",
    "StoppedError",
    "UnreachableError",
    "WeightsError",
    "annotate",
    "plan",
    "read_table",
]

#: public name -> module that defines it
_HOME = {
    "annotate": "faceatlas.runs",
    "plan": "faceatlas.runs",
    "read_table": "pipeline.tables.parquet",
    "FaceAnalyzer": "actors.analyzer",
    "FaceatlasError": "pipeline.errors",
    "ConfigError": "pipeline.errors",
    "ManifestError": "pipeline.errors",
    "OutputError": "pipeline.errors",
    "LeaseError": "pipeline.errors",
    "ClipError": "pipeline.errors",
    "StoppedError": "pipeline.errors",
    "ModelError": "actors.errors",
    "BundleError": "actors.errors",
    "WeightsError": "actors.errors",
    "MissingWeightsError": "actors.errors",
    "UnreachableError": "actors.errors",
    "DigestError": "actors.errors",
    "StateDictError": "actors.errors",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used and kept from then on."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
