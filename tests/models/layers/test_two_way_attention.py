"""two_way_attention against segment_anything's TwoWayAttentionBlock, whose weights it uses."""

from functools import partial

import pytest
import torch
import torch.nn as nn
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock

from mmseg_escnet.models.layers import two_way_attention
from mmseg_escnet.models.layers.two_way_attention import few_to_many, many_to_few

C, HEADS, LENGTH, BATCH = 24, 3, 10, 2  # internal width of the cross-attention 12, of a head 4


def randomise(module):
    """Norms and biases too, so that none of them can be left out unnoticed."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module.double()


def tokens(length, batch=BATCH):
    return torch.randn(batch, length, C, dtype=torch.double, requires_grad=True)


def with_gradients(outputs, leaves):
    """Outputs, and the gradients of a fixed random sum of them."""
    generator = torch.Generator().manual_seed(3)
    total = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in outputs
    )
    return [*outputs, *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize('length', range(1, 9))
@pytest.mark.parametrize('skip_first_layer_pe', [True, False])
def test_equals_sam(length, skip_first_layer_pe):
    """Both kinds of tokens, and the gradients of all parameters and inputs."""
    layer = randomise(
        TwoWayAttentionBlock(C, HEADS, mlp_dim=32, skip_first_layer_pe=skip_first_layer_pe)
    )
    inputs = (tokens(length), tokens(LENGTH), tokens(length), tokens(LENGTH, batch=1))
    prompts, image, prompt_position, image_position = inputs
    leaves = [*inputs, *layer.parameters()]
    result = with_gradients(two_way_attention(layer, *inputs), leaves)
    expected = with_gradients(
        layer(queries=prompts, keys=image, query_pe=prompt_position, key_pe=image_position), leaves
    )
    assert len(result) > 30
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('downsample_rate', [1, 2])
@pytest.mark.parametrize(
    ('attend', 'queries', 'keys'),
    [(few_to_many, 3, LENGTH), (partial(many_to_few, onto=torch.zeros(1).double()), LENGTH, 3)],
)
def test_cross_attention_equals_sam(attend, queries, keys, downsample_rate):
    """Keys and values that have nothing to do with each other; an internal width of C as well."""
    attention = randomise(Attention(C, HEADS, downsample_rate=downsample_rate))
    inputs = (tokens(queries), tokens(keys), tokens(keys))
    leaves = [*inputs, *attention.parameters()]
    result = with_gradients([attend(attention, *inputs)], leaves)
    expected = with_gradients([attention(*inputs)], leaves)
    assert len(result) == 12
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
