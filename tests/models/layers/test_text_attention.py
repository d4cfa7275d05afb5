"""TextAttention against the explicit formula: a weight for each pair of class position and word."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from models.plain_escnet import plain_text_attention

from mmseg_escnet.models.layers import TextAttention

D_TEXT, DIMS, HEADS = 12, 8, 2


def build(**options) -> TextAttention:
    block = TextAttention(embed_dims=DIMS, text_dims=D_TEXT, num_heads=HEADS, **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block.double()


def inputs(batch=2, classes=5, height=3, width=4):
    x = torch.randn(batch, classes, height, width, DIMS)
    text = F.normalize(torch.randn(classes, D_TEXT), dim=-1)
    return x.double().requires_grad_(), text.double().requires_grad_()


@pytest.mark.parametrize('own_word', [False, True])
@pytest.mark.parametrize('mlp_ratio', [0.0, 2.0])
@pytest.mark.parametrize('classes', [1, 2, 6])
def test_equals_the_formula(own_word, mlp_ratio, classes):
    """Results, and the gradients of all parameters and inputs."""
    block = build(own_word=own_word, mlp_ratio=mlp_ratio)
    x, text = inputs(classes=classes)
    leaves = [x, text, *block.parameters()]
    result = block(x, text, block.summarize(text))
    expected = plain_text_attention(block, x, text)
    assert result.shape == x.shape
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(result)
    for found, wanted in zip(
        torch.autograd.grad((result * weight).sum(), leaves, materialize_grads=True),
        torch.autograd.grad((expected * weight).sum(), leaves, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


@torch.no_grad()
def test_words_that_are_no_classes():
    """Some classes attend to all words."""
    block = build(own_word=True)
    x, text = inputs(classes=3)
    words = F.normalize(torch.randn(7, D_TEXT).double(), dim=-1)
    result = block(x, text, block.summarize(words))
    expected = plain_text_attention(block, x, words, of_classes=text)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_no_class_sees_another_and_no_position():
    block = build()
    x, text = inputs()
    words = block.summarize(text)
    expected = block(x, text, words)
    changed = x.clone()
    changed[1, 2, 0, 3] += 1
    differs = (block(changed, text, words) != expected).any(-1)
    assert differs.nonzero().tolist() == [[1, 2, 0, 3]]


@torch.no_grad()
def test_order_of_words_and_words_twice():
    """A sum over the words: in any order, and a vocabulary given twice has the same mean."""
    block = build()
    x, text = inputs(classes=9)
    expected = block(x, text, block.summarize(text))
    for other in (text[torch.randperm(9)], torch.cat([text, text])):
        torch.testing.assert_close(
            block(x, text, block.summarize(other)), expected, rtol=1e-9, atol=1e-9
        )


@torch.no_grad()
def test_words_are_used():
    block = build()
    x, text = inputs()
    other = F.normalize(torch.randn_like(text), dim=-1)
    words, others = block.summarize(text), block.summarize(other)
    assert (block(x, text, words) - block(x, text, others)).abs().max() > 1e-2
    assert block(x, torch.full_like(text, torch.nan), words).isfinite().all()
    with_own = build(own_word=True)
    words = with_own.summarize(text)
    assert (with_own(x, text, words) - with_own(x, other, words)).abs().max() > 1e-2


@pytest.mark.skipif(torch.__version__ < (2, 3), reason='no half precision on a processor')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_sums_stay_in_the_range_of_half_precision(dtype):
    """10 000 words whose keys are about 100 each: their sum is beyond float16."""
    block = build().float()
    block.key.bias.fill_(100)
    x, text = (value.float() for value in inputs(batch=1, classes=10_000, height=1, width=1))
    expected = block(x, text, block.summarize(text))
    with torch.autocast('cpu', dtype=dtype):
        result = block(x, text, block.summarize(text))
    assert result.isfinite().all()
    torch.testing.assert_close(result.float(), expected, rtol=0.03, atol=0.06)


@torch.no_grad()
def test_queries_that_are_far_below_zero():
    """elu(x) + 1 rounds to zero in float32 from -17 on, and 0 / 0 would be the result."""
    block = build().float()
    for layer in (block.query, block.key):
        nn.init.zeros_(layer.weight)
        layer.bias.fill_(-60)
    x, text = (value.float() for value in inputs())
    result = block(x, text, block.summarize(text))
    # all words weigh the same
    value = block.value(block.text_norm(text)).mean(dim=0)
    torch.testing.assert_close(result, x + block.out(value), rtol=1e-4, atol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match='num_heads=3'):
        TextAttention(embed_dims=8, text_dims=4, num_heads=3)
