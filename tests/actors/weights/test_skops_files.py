import json
import sys
import zipfile

import numpy as np
import pytest
import skops.io
import torch
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from actors.errors import MissingWeightsError, WeightsError
from actors.models.trees import TreeEnsemble, read_trees
from actors.weights.skops_files import read_classifiers


def node(module, name, loader="ObjectNode", **more):
    return {"__module__": module, "__class__": name, "__loader__": loader, "__id__": 1, **more}


def write(path, schema):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", json.dumps({**schema, "protocol": 2, "_skops_version": "0.16.0"}))
    return path


@pytest.mark.parametrize(
    ("hostile", "named"),
    [
        (node("subprocess", "Popen"), "subprocess.Popen"),
        (node("os", "system", "FunctionNode", content="x"), "os.system"),
        (node("builtins", "eval", "TypeNode"), "builtins.eval"),
        (node("builtins", "str", "MethodNode", content={}), "MethodNode"),
        (node("numpy", "ndarray", "ObjectNode"), "numpy.ndarray"),
    ],
)
def test_a_type_that_is_not_on_the_list_is_refused_by_name(tmp_path, hostile, named):
    inside = node("builtins", "dict", "DictNode", content={"classifiers": hostile})
    path = write(tmp_path / "hostile.skops", node("__main__", "XGBClassifier", content=inside))
    with pytest.raises(WeightsError, match=named):
        read_classifiers(path)


def test_what_skops_itself_would_trust_is_refused_too(tmp_path):
    path = tmp_path / "pipeline.skops"
    skops.io.dump(Pipeline([("scale", StandardScaler().fit(np.eye(3)))]), path)
    with pytest.raises(WeightsError, match=r"sklearn\.pipeline\.Pipeline"):
        read_classifiers(path)


def test_a_file_that_is_no_archive_or_not_there(tmp_path):
    (tmp_path / "a.skops").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"a\.skops"):
        read_classifiers(tmp_path / "a.skops")
    with pytest.raises(MissingWeightsError, match=r"b\.skops"):
        read_classifiers(tmp_path / "b.skops")


def test_no_module_is_faked():
    assert not [name for name in sys.modules if name == "feat" or name.startswith("feat.")]


def test_a_booster_that_xgboost_cannot_read_is_an_error_of_the_weights():
    with pytest.raises(WeightsError, match="_v2"):
        read_trees(b"binf" + bytes(200))


@torch.inference_mode()
@pytest.mark.parametrize("objective", ["binary:logistic", "binary:hinge"])
def test_trees_as_tensors_answer_like_predict_proba(objective):
    import xgboost

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 12)).astype(np.float32), rng.integers(0, 2, 300)
    model = xgboost.XGBClassifier(n_estimators=15, max_depth=5, objective=objective, n_jobs=1).fit(x, y)
    trees = read_trees(model.get_booster().__getstate__()["handle"])
    ours = TreeEnsemble([trees], [0])(torch.from_numpy(x))
    np.testing.assert_allclose(ours[:, 0].numpy(), model.predict_proba(x)[:, 1], atol=1e-6)
