"""Non-maximum suppression as torchvision's, without waiting for torchvision."""

import subprocess
import sys

CODE = """
import sys, torch
from actors.weights.bundles import build_model, resolve_bundle
from actors.ops.nms import suppress

nets = {model.slot: build_model(model) for model in resolve_bundle("tiny").models}
nets["face"].detect(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
corner_M2 = torch.rand(200, 2, generator=torch.manual_seed(0)) * 50
boxes_M4, scores_M = torch.cat([corner_M2, corner_M2 + 20], 1), torch.rand(200, generator=torch.manual_seed(1))
ours = suppress(boxes_M4, scores_M, torch.zeros(200, dtype=torch.int64), 0.4)
assert "torchvision" not in sys.modules

from torchvision.ops import nms  # afterward the whole package still works

assert 5 < len(ours) < 200 and ours.equal(nms(boxes_M4.double(), scores_M.double(), 0.4))
"""


def test_the_tiny_bundle_does_without_the_package_that_takes_seconds_to_import():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
