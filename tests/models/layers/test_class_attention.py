"""ClassAttentionBlock against the explicit quadratic formula of linear attention."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from mmseg_escnet.models.layers import ClassAttentionBlock
from mmseg_escnet.models.layers.class_attention import _feature_map

D_TEXT, DIMS, HEADS = 12, 8, 2


def build(*, text_dims=D_TEXT) -> ClassAttentionBlock:
    block = ClassAttentionBlock(embed_dims=DIMS, text_dims=text_dims, num_heads=HEADS)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def inputs(batch=2, classes=5, height=3, width=4):
    x = torch.randn(batch, classes, height, width, DIMS)
    return x, F.normalize(torch.randn(classes, D_TEXT), dim=-1)


def phi(x: torch.Tensor) -> torch.Tensor:
    """elu(x) + 1"""
    return torch.where(x > 0, x + 1, x.exp())


def slow_attention(block, x, text):
    """Token by token and head by head, with queries and keys of one joined Linear each."""
    batch, classes, height, width, _ = x.shape
    x = F.layer_norm(x, (DIMS,), block.norm1.weight, block.norm1.bias)
    if block.sees_text:
        text = F.layer_norm(text, (D_TEXT,), block.text_norm.weight, block.text_norm.bias)
    head = DIMS // HEADS
    out = torch.zeros_like(x)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                tokens = x[b, :, i, j]
                query_weight, key_weight, both = block.query.weight, block.key.weight, tokens
                if block.sees_text:
                    both = torch.cat([tokens, text], 1)
                    query_weight = torch.cat([query_weight, block.text_query.weight], 1)
                    key_weight = torch.cat([key_weight, block.text_key.weight], 1)
                q = phi(both @ query_weight.T + block.query.bias)
                k = phi(both @ key_weight.T + block.key.bias)
                v = tokens @ block.value.weight.T + block.value.bias
                for h in range(HEADS):
                    part = slice(h * head, (h + 1) * head)
                    for n in range(classes):
                        weight = torch.stack([q[n, part] @ k[m, part] for m in range(classes)])
                        out[b, n, i, j, part] = (weight / weight.sum()) @ v[:, part]
    return out @ block.out.weight.T + block.out.bias


@pytest.mark.parametrize('sees_text', [True, False])
@pytest.mark.parametrize('classes', [1, 2, 6])
@torch.no_grad()
def test_equals_quadratic_formula(sees_text, classes):
    block = build(text_dims=D_TEXT if sees_text else None)
    x, text = inputs(classes=classes)
    expected = x + slow_attention(block, x, text)
    hidden = F.layer_norm(expected, (DIMS,), block.norm2.weight, block.norm2.bias)
    expected = expected + block.mlp[2](F.gelu(block.mlp[0](hidden)))
    result = block(x, text)
    assert result.shape == x.shape
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_order_of_classes():
    block = build()
    x, text = inputs(classes=9)
    order = torch.randperm(9)
    torch.testing.assert_close(
        block(x[:, order], text[order]), block(x, text)[:, order], rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_order_of_classes_in_double_precision():
    """In float64 the order makes a difference of rounding errors only."""
    block = build().double()
    x, text = (value.double() for value in inputs(classes=9))
    order = torch.randperm(9)
    difference = block(x[:, order], text[order]) - block(x, text)[:, order]
    assert difference.abs().max() < 1e-12


@torch.no_grad()
def test_positions_and_images_do_not_see_each_other():
    block = build()
    x, text = inputs()
    expected = block(x, text)
    changed = x.clone()
    changed[1, 2, 0, 3] += 1
    differs = (block(changed, text) != expected).any(-1).any(1)  # over classes and channels
    assert differs.nonzero().tolist() == [[1, 0, 3]]
    torch.testing.assert_close(block(x[1:], text), expected[1:])


@torch.no_grad()
def test_classes_see_each_other():
    block = build()
    x, text = inputs()
    changed = x.clone()
    changed[:, 2] += torch.randn(DIMS)
    difference = (block(changed, text) - block(x, text)).abs().amax((0, 2, 3, 4))
    assert (difference > 1e-3).all()


@torch.no_grad()
def test_text_is_used():
    block = build()
    x, text = inputs()
    other = F.normalize(torch.randn_like(text), dim=-1)
    assert (block(x, text) - block(x, other)).abs().max() > 1e-2


@torch.no_grad()
def test_text_is_not_used_without_text_guidance():
    block = build(text_dims=None)
    x, text = inputs()
    assert not [name for name, _ in block.named_parameters() if 'text' in name]
    assert block(x, text).equal(block(x, torch.full_like(text, torch.nan)))


@torch.no_grad()
def test_sums_leave_the_range_of_half_precision():
    """1000 classes whose keys are about 100 each: the sum, 1e5, is beyond float16."""
    block = build()
    block.key.bias.fill_(100)
    x, text = inputs(batch=1, classes=1000, height=1, width=2)
    expected = block(x, text)
    with torch.autocast('cpu', dtype=torch.float16):
        result = block(x, text)
    assert result.isfinite().all()
    torch.testing.assert_close(result.float(), expected, rtol=0.02, atol=0.05)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match='num_heads=3'):
        ClassAttentionBlock(embed_dims=8, text_dims=None, num_heads=3)


@torch.no_grad()
def test_kernel_stays_positive():
    """elu(x) + 1 rounds to zero in float32 from -17 on, and 0 / 0 would be the result."""
    x = torch.tensor([-80.0, -30.0, -1.0, 0.0, 2.0])
    kernel = _feature_map(x)
    assert (kernel > 0).all()
    torch.testing.assert_close(kernel[2:], F.elu(x[2:]) + 1)
    block = ClassAttentionBlock(embed_dims=8, text_dims=None, num_heads=2)
    block.query.bias.fill_(-60)
    block.key.bias.fill_(-60)
    assert block(torch.randn(1, 3, 2, 2, 8), torch.randn(3, 4)).isfinite().all()
