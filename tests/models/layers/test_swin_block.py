"""SwinBlock against the block of torchvision that it is made of."""

import pytest
import torch
import torch.nn as nn
from torchvision.models.swin_transformer import SwinTransformerBlock

from mmseg_escnet.models.layers import SwinBlock
from mmseg_escnet.models.layers.swin_block import attend, from_windows, to_windows

DIMS, HEADS, WINDOW = 8, 2, 4
# smaller than the window, equal, larger; multiples of it and not; longer one way than the other
SIZES = [(2, 3), (4, 4), (8, 8), (4, 8), (5, 9), (3, 6), (9, 2), (1, 7), (12, 5), (8, 4)]


def build(shift) -> SwinBlock:
    block = SwinBlock(DIMS, num_heads=HEADS, window_size=WINDOW, shift=shift, mlp_ratio=2.0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block.double()


@pytest.mark.parametrize('shift', [0, WINDOW // 2, 1])
@pytest.mark.parametrize('size', SIZES)
def test_equals_torchvision(size, shift):
    """The maps, and the gradients of maps and parameters."""
    block = build(shift)
    results = []
    x = torch.randn(3, *size, DIMS, dtype=torch.double, requires_grad=True)
    weight = torch.randn(3, *size, DIMS, dtype=torch.double)
    for run in (
        lambda: block(x, block.attention_bias(*size)),
        lambda: SwinTransformerBlock.forward(block, x),
    ):
        output = run()
        leaves = dict(block.named_parameters(), x=x)
        found = torch.autograd.grad((output * weight).sum(), list(leaves.values()))
        results.append([output, *found])
    assert results[0][0].shape == x.shape
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('shift', [0, WINDOW // 2])
def test_parameters_are_those_of_torchvision(shift):
    theirs = SwinTransformerBlock(DIMS, HEADS, [WINDOW, WINDOW], [shift, shift], mlp_ratio=2.0)
    build(shift).load_state_dict(theirs.state_dict(), strict=True)


@torch.no_grad()
def test_maps_do_not_see_each_other():
    block = build(2)
    x = torch.randn(3, 6, 9, DIMS, dtype=torch.double)
    bias = block.attention_bias(6, 9)
    together = block(x, bias)
    for index in range(3):
        alone = block(x[index : index + 1], bias)
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_fused_attention_is_the_same(dtype):
    query, key, value = torch.randn(3, 5, 6, 16, 4, dtype=dtype).unbind()
    bias = torch.randn(1, 6, 16, 16, dtype=dtype)
    bias[:, :2, :8, 8:] = -100
    fused, plain = (attend(query, key, value, bias, fused=fused) for fused in (True, False))
    scores = torch.einsum('mwsc,mwtc->mwst', query.double(), key.double()) / 2 + bias.double()
    expected = torch.einsum('mwst,mwtc->mwsc', scores.softmax(-1), value.double())
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    for result in (fused, plain):
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('size', [(4, 4), (8, 4), (4, 12)])
def test_windows(size):
    x = torch.randn(2, *size, 3)
    windows = to_windows(x, 4)
    expected = [
        x[:, i : i + 4, j : j + 4].flatten(1, 2)
        for i in range(0, size[0], 4)
        for j in range(0, size[1], 4)
    ]
    assert windows.equal(torch.stack(expected, dim=1))
    assert from_windows(windows, 4, *size).equal(x)
