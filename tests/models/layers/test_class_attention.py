"""ClassAttention against the explicit quadratic formula of linear attention."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from models.plain_escnet import plain_class_attention

from mmseg_escnet.models.layers import ClassAttention, ClassChunks
from mmseg_escnet.models.layers.class_attention import feature_map

D_TEXT, DIMS, HEADS = 12, 8, 2


def build(**options) -> ClassAttention:
    block = ClassAttention(embed_dims=DIMS, text_dims=D_TEXT, num_heads=HEADS, **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def inputs(batch=2, classes=5, height=3, width=4):
    x = torch.randn(batch, classes, height, width, DIMS)
    return x, F.normalize(torch.randn(classes, D_TEXT), dim=-1)


def refine(block, x, text, size=None) -> torch.Tensor:
    """A copy of what may be overwritten, all classes at once or some."""
    return block(x.clone(), text, ClassChunks(size))


@pytest.mark.parametrize('mlp_ratio', [4.0, 0.0])
@pytest.mark.parametrize('classes', [1, 2, 6])
@torch.no_grad()
def test_equals_quadratic_formula(mlp_ratio, classes):
    block = build(mlp_ratio=mlp_ratio)
    x, text = inputs(classes=classes)
    result = refine(block, x, text, 4)
    assert result.shape == x.shape
    expected = plain_class_attention(block, x, text)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_more_classes_than_a_sum_is_made_for():
    block = build()
    x, text = inputs(batch=1, classes=70, height=1)
    expected = plain_class_attention(block, x, text)
    torch.testing.assert_close(refine(block, x, text, 3), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [1, 2, 3, 5])
@torch.no_grad()
def test_sums_of_parts_add_up(size):
    """Added, they are the sums of all, and with them some classes are refined as among all."""
    block = build().double()
    x, text = (value.double() for value in inputs(classes=5))
    everything = block.summarize(x, text)
    parts = list(zip(x.split(size, dim=1), text.split(size), strict=True))
    total = block.summarize(*parts[0])
    for part in parts[1:]:
        total = total + block.summarize(*part)
    head = DIMS // HEADS
    assert everything.key_value.shape == (2, 12, HEADS, head, head)
    assert everything.key.shape == (2, 12, HEADS, head)
    for name, value in vars(everything).items():
        torch.testing.assert_close(getattr(total, name), value, rtol=1e-12, atol=1e-12)
    refined = torch.cat([block.refine(*part, total) for part in parts], dim=1)
    expected = plain_class_attention(block, x, text)
    torch.testing.assert_close(refined, expected, rtol=1e-10, atol=1e-10)
    if size < 5:
        assert (refine(block, *parts[0]) - expected[:, :size]).abs().max() > 1e-2


@torch.no_grad()
def test_sums_of_classes_that_count_several_times():
    block = build().double()
    x, text = (value.double() for value in inputs(classes=3))
    times = torch.tensor([2, 1, 3])
    again = torch.arange(3).repeat_interleave(times)
    expected = block.summarize(x[:, again], text[again])
    result = block.summarize(x, text, times.double())
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(result, name), value, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_order_of_classes():
    """In float64 the order makes a difference of rounding errors only."""
    block = build().double()
    x, text = (value.double() for value in inputs(classes=9))
    order = torch.randperm(9)
    difference = refine(block, x[:, order], text[order]) - refine(block, x, text)[:, order]
    assert difference.abs().max() < 1e-12


@torch.no_grad()
def test_positions_and_images_do_not_see_each_other():
    block = build()
    x, text = inputs()
    expected = refine(block, x, text)
    changed = x.clone()
    changed[1, 2, 0, 3] += 1
    differs = (refine(block, changed, text) != expected).any(-1).any(1)  # over classes and channels
    assert differs.nonzero().tolist() == [[1, 0, 3]]
    torch.testing.assert_close(refine(block, x[1:], text), expected[1:])


@pytest.mark.skipif(torch.__version__ < (2, 3), reason='no half precision on a processor')
@torch.no_grad()
def test_sums_leave_the_range_of_half_precision():
    """1000 classes whose keys are about 100 each: the sum, 1e5, is beyond float16."""
    block = build()
    block.key.bias.fill_(100)
    x, text = inputs(batch=1, classes=1000, height=1, width=2)
    expected = refine(block, x, text)
    with torch.autocast('cpu', dtype=torch.float16):
        result = refine(block, x, text)
    assert result.isfinite().all()
    torch.testing.assert_close(result.float(), expected, rtol=0.02, atol=0.05)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match='num_heads=3'):
        ClassAttention(embed_dims=8, text_dims=4, num_heads=3)


@torch.no_grad()
def test_kernel_stays_positive():
    """elu(x) + 1 rounds to zero in float32 from -17 on, and 0 / 0 would be the result."""
    x = torch.tensor([-80.0, -30.0, -1.0, 0.0, 2.0])
    kernel = feature_map(x)
    assert (kernel > 0).all()
    torch.testing.assert_close(kernel[2:], F.elu(x[2:]) + 1)
    block = ClassAttention(embed_dims=8, text_dims=4, num_heads=2)
    block.query.bias.fill_(-60)
    block.key.bias.fill_(-60)
    assert refine(block, torch.randn(1, 3, 2, 2, 8), torch.randn(3, 4)).isfinite().all()
