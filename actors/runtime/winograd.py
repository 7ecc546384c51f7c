"""3x3 convolutions by Winograd's minimal filtering (Lavin and Gray 2016), for CPUs in float32.

F(4x4, 3x3): a tile of 4x4 outputs takes 36 products per pair of channels instead of 144; F(2x2, 3x3): one of 2x2 takes
16 instead of 36. Input tiles, weights and output tiles are transformed (winograd_transforms.py); the matrix products
between them run near the peak. oneDNN has the algorithm for AVX-512 only; NNPACK, which torch includes, refused to run
on the machine that it was tried on.

Sums come in another order and with other factors than in direct convolution: results differ by 1e-5 of the largest.
The choice of algorithm depends on the layer alone, never on the batch. Figures: docs/benchmarks/speed_epyc_20261124.md.

Letters: N pictures, C K channels in and out, H W rows and columns, T tiles, P products of a tile.
"""

import threading

import torch
from torch import Tensor, nn

from actors.runtime import winograd_transforms

_LEAST_CHANNELS, _LEAST_PAIRS = 32, 32 * 64  # below, the transforms cost more than the products save
#: channels in times out up to which tiles are large; weights then take 36 / 9 of the memory, else 16 / 9
_LARGE_TILES = 512 * 512
#: numbers of a step's tiles: intermediate results must stay in the cache
_LEAST_STEP, _MOST_STEP = 1 << 19, 1 << 21

#: outputs of a tile along one side -> G of sections 4.1 and 4.3; B^T and A^T are in winograd_transforms.py
_WEIGHTS = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}
_TRANSFORMS = {
    2: (winograd_transforms.cut_2, winograd_transforms.join_2),
    4: (winograd_transforms.cut_4, winograd_transforms.join_4),
}


def use_winograd(net: nn.Module) -> int:
    """Replace the convolutions of a network that this algorithm suits, in place; returns their number.

    Args:
        net: on the CPU, float32, in eval mode, with its weights.
    """
    suited = [module for module in net.modules() if type(module) is nn.Conv2d and _suits(module)]
    made = {id(layer): WinogradConv(layer) for layer in suited}
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in made:  # under every name: some published networks register one layer twice
                setattr(parent, name, made[id(child)])
    return len(made)


def _suits(layer: nn.Conv2d) -> bool:
    plain = (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    pairs = layer.in_channels * layer.out_channels
    narrow = pairs < _LEAST_PAIRS or min(layer.in_channels, layer.out_channels) < _LEAST_CHANNELS
    # hooks may recompute the weights at every call
    hooked = layer._forward_pre_hooks or layer._forward_hooks
    return plain and layer.groups == 1 and layer.padding_mode == "zeros" and not narrow and not hooked


class WinogradConv(nn.Module):
    """A 3x3 convolution of stride and padding 1, for inference."""

    weights_PCK: Tensor
    bias_K: Tensor

    def __init__(self, layer: nn.Conv2d) -> None:
        """Transform the weights of a layer.

        Args:
            layer: 3x3, of stride and padding 1, float32; see `use_winograd`.
        """
        super().__init__()
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.tile = 4 if self.in_channels * self.out_channels <= _LARGE_TILES else 2
        weight = torch.tensor(_WEIGHTS[self.tile], dtype=torch.float64)
        weights_PCK = torch.empty((self.tile + 2) ** 2, self.in_channels, self.out_channels)
        for low in range(0, self.in_channels, 64):  # in float64, to round once; in parts, to take little memory
            part_CK33 = layer.weight.detach()[:, low : low + 64].double().transpose(0, 1)
            product = torch.kron(weight, weight) @ part_CK33.permute(2, 3, 0, 1).reshape(9, -1)
            weights_PCK[:, low : low + 64] = product.view(len(product), -1, self.out_channels)
        self.has_bias = layer.bias is not None
        bias_K = torch.zeros(self.out_channels) if layer.bias is None else layer.bias.detach().clone()
        self.register_buffer("weights_PCK", weights_PCK, persistent=False)
        self.register_buffer("bias_K", bias_K, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The layer's weights (K, C, 3, 3) but for rounding, for users' networks that read them."""
        matrix = torch.tensor(_WEIGHTS[self.tile], dtype=torch.float64)
        flat = torch.linalg.pinv(torch.kron(matrix, matrix)) @ self.weights_PCK.double().flatten(1)
        return flat.float().view(3, 3, self.in_channels, self.out_channels).permute(3, 2, 0, 1)

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias (K,), None without one."""
        return self.bias_K if self.has_bias else None

    @torch.no_grad()
    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The convolution.

        Args:
            x_NCHW: float32, on the CPU.

        Returns:
            (N, K, H, W) float32, in channels-last order.
        """
        count, _, height, width = x_NCHW.shape
        rows, columns = -(-height // self.tile), -(-width // self.tile)
        padded_NHWC = self._pad(x_NCHW, rows, columns)
        y_NHWK = x_NCHW.new_empty(count, rows * self.tile, columns * self.tile, self.out_channels)
        # wide layers take larger steps: their weights are read once in each
        step = min(max(_LEAST_STEP, self.weights_PCK.numel()), _MOST_STEP)
        step = max(1, step // ((self.tile + 2) ** 2 * columns * max(self.in_channels, self.out_channels)))
        for first in range(0, count, max(1, step // rows)):
            last = min(first + max(1, step // rows), count)
            for top in range(0, rows, step):
                low, high = top * self.tile, min(top + step, rows) * self.tile
                self._convolve(padded_NHWC[first:last, low : high + 2], y_NHWK[first:last, low:high])
        return y_NHWK[:, :height, :width].permute(0, 3, 1, 2)

    def _pad(self, x_NCHW: Tensor, rows: int, columns: int) -> Tensor:
        """The pictures channels last, with a border of zeros, up to whole tiles."""
        count, channels, height, width = x_NCHW.shape
        shape = (count, rows * self.tile + 2, columns * self.tile + 2, channels)
        padded_NHWC = _workspace("padded", shape)
        padded_NHWC[:, 0], padded_NHWC[:, height + 1 :] = 0, 0
        padded_NHWC[:, :, 0], padded_NHWC[:, :, width + 1 :] = 0, 0
        padded_NHWC[:, 1 : height + 1, 1 : width + 1] = x_NCHW.permute(0, 2, 3, 1)
        return padded_NHWC

    def _convolve(self, padded_NHWC: Tensor, y_NHWK: Tensor) -> None:
        """Some rows of tiles: reads `padded_NHWC` with its border, writes `y_NHWK`."""
        count, height, width, filters = y_NHWK.shape
        products, num = (self.tile + 2) ** 2, count * (height // self.tile) * (width // self.tile)
        cut, join = _TRANSFORMS[self.tile]
        tiles_PTC = _workspace("tiles", (products, num, self.in_channels))
        cut(padded_NHWC.numpy(), tiles_PTC.numpy())
        products_PTK = _workspace("products", (products, num, filters))
        torch.bmm(tiles_PTC, self.weights_PCK, out=products_PTK)
        join(products_PTK.numpy(), self.bias_K.numpy(), y_NHWK.numpy())


_spaces = threading.local()


def _workspace(name: str, shape: tuple[int, ...]) -> Tensor:
    """Memory that lasts from layer to layer, one piece of each name per thread: fresh pages would cost a third more."""
    size = torch.Size(shape).numel()
    spaces: dict[str, Tensor] = _spaces.__dict__.setdefault("spaces", {})
    if name not in spaces or spaces[name].numel() < size:
        with torch.inference_mode(False):  # a tensor of the inference mode could not be written outside of it
            spaces[name] = torch.empty(size)
    return spaces[name][:size].view(shape)
