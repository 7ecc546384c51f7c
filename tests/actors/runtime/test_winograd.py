"""Winograd's convolutions give what direct ones give, whatever the size, and are used where they suit only."""

import pytest
import torch
from torch import nn

from actors.models.arcface import IResNet50
from actors.models.retinaface import new_retinaface_r34
from actors.runtime.bn_folding import fold_batch_norms
from actors.runtime.placement import place_network
from actors.runtime.winograd import WinogradConv, use_winograd

CPU = torch.device("cpu")


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-5 * theirs.abs().max().item())


@torch.inference_mode()
@pytest.mark.parametrize(
    ("pictures", "channels", "filters", "height", "width", "tile"),
    [
        (0, 64, 64, 8, 8, 4),
        (2, 64, 32, 9, 8, 4),
        (2, 64, 96, 13, 17, 4),  # no multiples of a tile
        (1, 64, 64, 1, 2, 4),  # smaller than a tile
        (5, 128, 64, 7, 7, 4),
        (2, 64, 64, 90, 160, 4),  # several steps within a picture
        (3, 1024, 512, 7, 7, 2),
    ],
)
def test_a_layer_gives_what_it_gave(pictures, channels, filters, height, width, tile):
    net = nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1, bias=channels == 64))
    x = torch.randn(pictures, channels, height, width, generator=torch.manual_seed(0))
    before, weight, bias = net(x), net[0].weight.clone(), net[0].bias
    assert use_winograd(net) == 1
    assert net[0].tile == tile
    torch.testing.assert_close(net[0].weight, weight)  # for networks that look at it
    assert (net[0].bias is None) == (bias is None)
    assert net(x).shape == before.shape
    if pictures:
        close(net(x), before)
        assert torch.equal(net(x.contiguous(memory_format=torch.channels_last)), net(x))
        close(net(x[:1]), net(x)[:1])


@torch.inference_mode()
def test_a_larger_picture_before_leaves_nothing_at_the_border():
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    x = torch.ones(1, 64, 5, 6)
    before = net(x)
    use_winograd(net)
    net(torch.full((2, 64, 30, 30), 1e6))
    close(net(x), before)


@torch.inference_mode()
def test_it_works_in_and_out_of_inference_mode():
    net, x = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1)), torch.ones(1, 64, 9, 9)
    use_winograd(net)
    inside = net(x)
    with torch.inference_mode(False):
        assert torch.equal(net(torch.ones(1, 64, 9, 9)), inside)


@pytest.mark.parametrize(
    "options",
    [{"stride": 2}, {"padding": 0}, {"dilation": 2, "padding": 2}, {"groups": 64}, {"padding_mode": "reflect"}],
    ids=lambda options: next(iter(options)),
)
def test_other_layers_stay_as_they_are(options):
    net = nn.Sequential(nn.Conv2d(64, 64, 3, **{"padding": 1, **options}), nn.Conv2d(64, 16, 3, padding=1))
    assert use_winograd(net) == 0
    assert not any(isinstance(layer, WinogradConv) for layer in net)


def test_a_layer_whose_weights_are_made_at_every_call_stays():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(64, 64, 3, padding=1)))
    hooked = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    hooked[0].register_forward_pre_hook(lambda layer, args: None)
    assert use_winograd(net) == use_winograd(hooked) == 0


@torch.inference_mode()
@pytest.mark.parametrize(("build", "side"), [(IResNet50, 112), (new_retinaface_r34, 96)], ids=["arcface", "detector"])
def test_whole_networks_give_what_they_gave(build, side):
    torch.manual_seed(0)
    plain, fast = (build().eval() for _ in range(2))
    fast.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, side, side)
    answers = [
        place_network(net, CPU, torch.float32, True, winograd)(x) for net, winograd in ((plain, False), (fast, True))
    ]
    assert any(isinstance(layer, WinogradConv) for layer in fast.modules())
    for ours, theirs in zip(*(a if isinstance(a, tuple) else (a,) for a in answers[::-1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_own_kernels(dtype):
    net = place_network(nn.Sequential(nn.Conv2d(64, 64, 3, padding=1)), CPU, dtype, fold=True, winograd=True)
    assert isinstance(net[0], nn.Conv2d)


def test_a_folded_norm_is_in_the_weights():
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64)).eval()
    net[1].running_mean.normal_(generator=torch.manual_seed(0))
    x = torch.rand(1, 64, 8, 8)
    before = net(x).detach()
    assert (fold_batch_norms(net), use_winograd(net)) == (1, 1)
    close(net(x), before)
