import hashlib
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from actors.errors import MissingWeightsError, StateDictError, WeightsError
from actors.weights.state_dict import file_digest, load_strict, read_state_dict


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('code out of a weight file ran')",)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pth.tar", "w.pt"])
def test_half_precision_is_read_as_float32(tmp_path, name):
    state = {"a": torch.ones(2, dtype=torch.float16), "steps": torch.tensor(3)}
    save_file(state, tmp_path / name) if name == "w.safetensors" else torch.save(state, tmp_path / name)
    read = read_state_dict(tmp_path / name)
    assert {key: value.dtype for key, value in read.items()} == {"a": torch.float32, "steps": torch.int64}


def test_tensors_under_a_key_and_with_a_prefix(tmp_path):
    torch.save({"epoch": 3, "net": {"module.a": torch.ones(1)}}, tmp_path / "w.pth")
    assert list(read_state_dict(tmp_path / "w.pth", key="net", strip_prefix="module.")) == ["a"]
    with pytest.raises(WeightsError, match=r"no entry 'state_dict'; the file holds 'epoch', 'net'"):
        read_state_dict(tmp_path / "w.pth", key="state_dict")
    with pytest.raises(WeightsError, match="another `key`"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.onnx"])
@pytest.mark.parametrize(
    "content", [b"", b"not weights at all", pickle.dumps(Bomb(), protocol=2)], ids=["empty", "text", "code"]
)
def test_files_that_are_no_weights_are_refused_and_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_state_dict(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    for read in (read_state_dict, file_digest):
        with pytest.raises(MissingWeightsError, match=r"nowhere\.pth"):
            read(tmp_path / "nowhere.pth")


def test_differences_are_listed_and_the_network_is_left_alone():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = net[0].bias.clone()
    state = net.state_dict() | {"0.bias": torch.zeros(4), "2.weight": torch.zeros(1)}
    del state["0.weight"]
    with pytest.raises(StateDictError) as error:
        load_strict(net, state, "toy")
    assert str(error.value) == (
        "weights of toy do not fit its network; missing (1): 0.weight; unexpected (1): 2.weight; "
        "wrong shape (1): 0.bias (expected [3], got [4])"
    )
    assert torch.equal(net[0].bias, before)


def test_only_optional_tensors_may_be_missing():
    net = nn.BatchNorm1d(3)
    state = {key: value + 1 for key, value in net.state_dict().items() if key != "num_batches_tracked"}
    with pytest.raises(StateDictError, match=r"missing \(1\): num_batches_tracked"):
        load_strict(net, state, "toy")
    load_strict(net, state, "toy", optional=("num_batches_tracked",))
    assert torch.equal(net.bias, torch.ones(3))


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(StateDictError("weights of toy")))
    assert isinstance(error, WeightsError)
    assert str(error) == "weights of toy"


def test_a_digest_needs_no_torch(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"abc")
    assert file_digest(tmp_path / "w.pt") == hashlib.sha256(b"abc").hexdigest()
    code = "import sys, actors.weights.state_dict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
