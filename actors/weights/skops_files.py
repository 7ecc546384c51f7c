"""The reference's classical classifiers, read from skops files without running code out of them.

A skops file is a zip of plain arrays and a tree of types (`schema.json`). Before anything is made of it, the whole tree
is held against the short lists below; then skops puts it together, with every class of scikit-learn, xgboost and the
reference replaced by one of the plain records here. So no class of a file's choosing is ever imported, no code of a
library runs on the file's state, and scikit-learn's version does not matter. Boosters stay bytes.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skops.io

from actors.errors import MissingWeightsError, WeightsError


class Scaler:
    """A StandardScaler: (x - mean_) / scale_; either may be None."""

    mean_: np.ndarray | None
    scale_: np.ndarray | None


class Projection:
    """A PCA: (x - mean_) @ components_.T, divided by the square root of explained_variance_ if it whitens."""

    mean_: np.ndarray
    components_: np.ndarray
    explained_variance_: np.ndarray
    whiten: bool


class LinearClassifier:
    """A LinearSVC: the label is classes_[1] where x @ coef_.T + intercept_ > 0, else classes_[0]."""

    coef_: np.ndarray
    intercept_: np.ndarray
    classes_: np.ndarray


class BoosterBytes:
    """An xgboost Booster, serialized."""

    handle: bytearray


class BoostedClassifier:
    """An xgboost XGBClassifier."""

    _Booster: BoosterBytes

    @property
    def handle(self) -> bytearray:
        """The serialized booster."""
        return self._Booster.handle


class HogClassifiers:
    """The reference's wrapper: scalers and PCAs of up to three regions, and a classifier per output.

    Attributes:
        classifiers: "AU1" or "anger" ... -> LinearClassifier or BoostedClassifier.
    """

    classifiers: dict[str, Any]

    def region(self, name: str) -> tuple[Scaler, Projection]:
        """Scaler and PCA of a region: upper, lower or full; AttributeError if the file lacks it."""
        return getattr(self, f"scaler_{name}"), getattr(self, f"pca_model_{name}")


_WRAPPERS = ("XGBClassifier", "SVMClassifier", "EmoSVMClassifier")
#: objects of a file -> what they become
_OBJECTS: dict[str, type] = {
    **{
        f"{module}.{name}": HogClassifiers
        for name in _WRAPPERS
        for module in (
            "__main__",
            "feat.au_detectors.StatLearning.SL_test",
            "feat.emo_detectors.StatLearning.EmoSL_test",
        )
    },
    "sklearn.preprocessing._data.StandardScaler": Scaler,
    "sklearn.decomposition._pca.PCA": Projection,
    "sklearn.svm._classes.LinearSVC": LinearClassifier,
    "xgboost.sklearn.XGBClassifier": BoostedClassifier,
    "xgboost.core.Booster": BoosterBytes,
}
_PLAIN = {f"builtins.{name}" for name in ("str", "int", "float", "bool", "NoneType")}
_NUMBERS = {f"numpy.{name}" for name in ("ndarray", "float32", "float64", "int32", "int64", "bool", "bool_")}
#: kind of node (skops' word) -> the types that it may name
_ALLOWED: dict[str, set[str]] = {
    "ObjectNode": set(_OBJECTS),
    "DictNode": {"builtins.dict"},
    "ListNode": {"builtins.list"},
    "TupleNode": {"builtins.tuple"},
    "JsonNode": _PLAIN,
    "TypeNode": _PLAIN | _NUMBERS,
    "NdArrayNode": _NUMBERS,
    "BytearrayNode": {"builtins.bytearray"},
    "BytesNode": {"builtins.bytes"},
}
_NODE_KEYS = ("__loader__", "__module__", "__class__")


def read_classifiers(path: Path | str) -> HogClassifiers:
    """Read a skops file of the reference's classifiers.

    Args:
        path: the file.

    Raises:
        MissingWeightsError: there is no such file.
        WeightsError: it is not a skops file, or has a type that is not on the list; the message names the type.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingWeightsError(f"no weight file at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            schema = json.loads(archive.read("schema.json"))
            if refused := sorted(set(_refused(schema))):
                raise WeightsError(f"{path}: refused, as it holds {', '.join(refused)}; none of it was loaded")
            for node in _nodes(schema):
                if node["__loader__"] == "ObjectNode":
                    ours = _OBJECTS[_type_of(node)]
                    node["__module__"], node["__class__"] = ours.__module__, ours.__name__
            content = skops.io.load(_copied(archive, schema), trusted=sorted(_names(_OBJECTS.values())))
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: not a readable skops file: {type(error).__name__}: {error}") from error
    if not isinstance(content, HogClassifiers):
        raise WeightsError(f"{path}: expected the classifiers of the reference, got {type(content).__name__}")
    return content


def _refused(schema: Any) -> Iterator[str]:
    for node in _nodes(schema):
        loader, name = node["__loader__"], _type_of(node)
        if loader not in _ALLOWED:
            yield f"{name} (as {loader})"
        elif name not in _ALLOWED[loader]:
            yield name


def _nodes(tree: Any) -> Iterator[dict]:
    """Every node of a schema, however deep; a dict with any of a node's keys counts as one."""
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if any(key in item for key in _NODE_KEYS):
                yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _type_of(node: dict) -> str:
    return f"{node['__module__']}.{node['__class__']}"


def _names(types: Any) -> set[str]:
    return {f"{kind.__module__}.{kind.__name__}" for kind in types}


def _copied(archive: zipfile.ZipFile, schema: Any) -> io.BytesIO:
    """The archive in memory, with another schema."""
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as target:
        for name in archive.namelist():
            target.writestr(name, json.dumps(schema) if name == "schema.json" else archive.read(name))
    return copy
