"""Every network of face crops, with random weights: batch size, dtypes, no face, folding."""

import copy

import pytest
import torch
from torch import nn

from actors.models.arcface import IResNet50
from actors.models.facenet import InceptionResnetV1
from actors.models.l2cs import L2CS
from actors.models.mobilefacenet import MobileFaceNet
from actors.models.mobilenet import MobileNetGDConv
from actors.models.pfld import PFLD
from actors.models.pose_mlp import PoseMLP
from actors.models.resmasknet import ResMaskNet
from actors.runtime.bn_folding import fold_batch_norms

# network, side of its crops, width of its output
NETWORKS = [
    (MobileFaceNet, 112, 136),
    (PFLD, 112, 136),
    (MobileNetGDConv, 224, 136),
    (ResMaskNet, 64, 7),  # on 224 pixels it would take a minute
    (IResNet50, 112, 512),
    (InceptionResnetV1, 112, 512),
    (L2CS, 112, 3),
]


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda network: network[0].__name__)
def network(request):
    """Network with random weights, three crops for it, and the width of its output."""
    make, side, width = request.param
    torch.manual_seed(5)
    net = make().eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=(0.8 / module.weight[0].numel()) ** 0.5)
        elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            module.running_mean.normal_(0, 0.05)
            module.running_var.uniform_(0.8, 1.2)
    return net, torch.rand(3, 3, side, side) * torch.tensor([1.0, 0.6, 0.3])[:, None, None, None], width


def assert_alike(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@torch.inference_mode()
def test_no_face(network):
    net, crops, width = network
    output = net(crops[:0])
    assert (output.shape, output.dtype) == ((0, width), torch.float32)


@torch.inference_mode()
def test_a_face_is_judged_alike_alone_and_beside_a_face_that_cannot_be_judged(network):
    net, crops, width = network
    spoilt = crops.clone()
    spoilt[1] = float("nan")
    output = net(spoilt)
    assert output.shape == (3, width)
    assert output[1].isnan().all()
    for place in (0, 2):
        assert output[place].isfinite().all()
        assert_alike(output[place], net(crops[place : place + 1])[0])
    assert (output[0] - output[2]).abs().max() > 1e-3 * output[0].abs().max()


@torch.inference_mode()
def test_a_network_runs_in_the_dtype_of_its_weights_and_gives_float32(network):
    """In float64, as half precision takes a minute where the processor has no instructions for it."""
    net, crops, _ = network
    output = copy.deepcopy(net).to(torch.float64)(crops[:1])
    assert output.dtype == torch.float32
    assert_alike(output, net(crops[:1]))


@torch.inference_mode()
def test_batch_norms_that_follow_a_convolution_fold_into_it(network):
    net, crops, _ = network
    folded = copy.deepcopy(net)
    norms = sum(isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)) for module in net.modules())
    assert fold_batch_norms(folded) > (0 if isinstance(net, IResNet50) else 0.8 * norms)
    assert_alike(folded(crops[:1]), net(crops[:1]))


@torch.inference_mode()
def test_scale_and_mean_of_the_poses_stay_exact_in_half_precision():
    pose = PoseMLP(hidden=[8], dropout=0.0, mean=[1.001, 0, 0, 0, 0, 0], std=[1.0] * 6)
    for parameter in pose.parameters():
        nn.init.zeros_(parameter)
    about_x = pose.to(torch.bfloat16).raw(torch.rand(1, 68, 2))[0, 0]
    torch.testing.assert_close(about_x, torch.tensor(1.001), rtol=0, atol=1e-6)
