"""Folding batch norms keeps every output, and leaves alone what it must not touch."""

import pytest
import torch
from torch import nn

from actors.models.arcface import IResNet50
from actors.models.mobilefacenet import MobileFaceNet
from actors.runtime.bn_folding import fold_batch_norms


def lively(net):
    """Norms with statistics of their own, so that folding wrongly would show."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


@torch.inference_mode()
@pytest.mark.parametrize(("build", "pairs"), [(MobileFaceNet, 50), (IResNet50, 1)], ids=["after", "before"])
def test_outputs_stay_and_norms_before_their_convolution_too(build, pairs):
    net = lively(build())
    crops = torch.rand(2, 3, 112, 112)
    before = net(crops)
    assert fold_batch_norms(net) == pairs
    torch.testing.assert_close(net(crops), before, rtol=1e-3, atol=1e-4 * before.abs().max().item())


class Twice(nn.Module):
    """A convolution whose output is used beside the norm too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class Branching(Twice):
    """A forward that depends on values cannot be traced."""

    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else x


@torch.inference_mode()
@pytest.mark.parametrize("build", [Twice, Branching])
def test_what_cannot_be_folded_stays_as_it_is(build):
    net = lively(build())
    x = torch.rand(1, 3, 5, 5)
    before = net(x)
    assert fold_batch_norms(net) == 0
    assert torch.equal(net(x), before)


class Bent(nn.Module):
    """Norms behind a ReLU, of which the second turns a channel over."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(4),
        )
        with torch.no_grad():
            self.layers[2].bias.uniform_(-1, 1)
            self.layers[5].weight[0] = -1

    def forward(self, x):
        return self.layers(x)


@torch.inference_mode()
def test_a_norm_behind_a_relu_is_folded_unless_it_turns_a_channel_over():
    net = lively(Bent())
    x = torch.randn(2, 3, 5, 5)
    before = net(x)
    assert fold_batch_norms(net) == 1
    torch.testing.assert_close(net(x), before)
