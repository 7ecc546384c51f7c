import torch
from torch import nn

from jobs.bench.precision import MEASURES, Float32Products, deviations


@torch.no_grad()
def test_products_of_halves_in_float32_are_those_of_the_half_kernels():
    torch.manual_seed(0)
    for dtype, eps in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        for layer, x in ((nn.Conv2d(16, 8, 3), torch.rand(2, 16, 7, 7)), (nn.Linear(64, 8), torch.rand(3, 64))):
            layer, x = layer.to(dtype), x.to(dtype)
            with Float32Products():
                ours = layer(x)
            assert ours.dtype == dtype
            kernel = layer(x).float()
            torch.testing.assert_close(ours.float(), kernel, rtol=2 * eps, atol=eps * float(kernel.abs().max()))


class Squares(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return (x.to(self.weight.dtype) * self.weight).square().float()


@torch.no_grad()
def test_rounding_and_overflow_are_told():
    (row,) = deviations("x", lambda net: net(torch.full((1, 136), 1 + 2**-9)), Squares(), MEASURES["landmarks"])
    bfloat16, float16 = row.split("|")[-3:-1]
    assert float(bfloat16.split("/")[0]) > 0.4  # 1 + 2^-9 is 1 in bfloat16, so 112 x 2^-8 is lost
    assert float(float16.split("/")[0]) < 0.1
    (row,) = deviations("x", lambda net: net(torch.full((1, 136), 300.0)) - 9e4, Squares(), MEASURES["landmarks"])
    assert "inf" in row.split("|")[-2]  # 300 x 300 is beyond float16
    assert "(too far)" in row
