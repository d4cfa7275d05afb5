"""SAMBlock against segment_anything's TwoWayTransformer and against a plain loop over classes."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from segment_anything.modeling import TwoWayTransformer

from mmseg_escnet import ESCNetError
from mmseg_escnet.models import SAMBlock

D, C, HEADS, MLP = 12, 32, 2, 48
BATCH, CLASSES, TOKENS = 2, 3, 4


def randomise(module):
    """Norms and biases too, so that none of them can be left out unnoticed."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def build(**kwargs) -> tuple[SAMBlock, TwoWayTransformer]:
    """A block that was given the weights of a whole SAM transformer, and that transformer."""
    transformer = randomise(TwoWayTransformer(2, C, HEADS, MLP))
    block = randomise(SAMBlock(image_dims=D, embed_dims=C, num_heads=HEADS, mlp_dims=MLP, **kwargs))
    prefix = 'layers.'
    block.layers.load_state_dict(
        {
            key[len(prefix) :]: value
            for key, value in transformer.state_dict().items()
            if key.startswith(prefix)
        }
    )
    return block.eval(), transformer.eval()


@pytest.mark.parametrize(('height', 'width'), [(4, 4), (3, 5)])
@torch.no_grad()
def test_image_tokens_are_those_of_sam(height, width):
    block, transformer = build()
    image = torch.randn(BATCH, C, height, width)
    position = torch.randn(1, C, height, width)
    sparse = torch.randn(BATCH, TOKENS, C)
    tokens = block.image_tokens(image, position, sparse)
    expected = transformer(image, position.expand_as(image), sparse)[1]
    assert tokens.shape == (BATCH, height * width, C)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)


def slow_block(block, transformer, features, sparse, dense, position, presence):
    """Image by image and class by class."""
    conv, norm = block.image_proj
    height, width = features.shape[-2:]
    images = []
    for b in range(BATCH):
        image = F.conv2d(features[b : b + 1], conv.weight, conv.bias)
        mean = image.mean(1, keepdim=True)
        variance = (image - mean).square().mean(1, keepdim=True)
        image = (image - mean) / (variance + 1e-6).sqrt()
        image = image * norm.weight[:, None, None] + norm.bias[:, None, None]
        pooled = torch.zeros(C, height, width)
        for n in range(CLASSES):
            m = b * CLASSES + n
            tokens = transformer(image + dense[m], position, sparse[m : m + 1])[1][0]
            weight = presence[b, n] if block.class_fusion == 'presence' else 1 / CLASSES
            pooled += weight * tokens.T.view(C, height, width)
        images.append(F.conv2d(pooled[None], block.fuse.weight, block.fuse.bias))
    return torch.cat(images)


@pytest.mark.parametrize('fusion', ['mean', 'presence'])
@pytest.mark.parametrize('dense_size', [(3, 5), (1, 1)])
@torch.no_grad()
def test_equals_loop_over_classes(fusion, dense_size):
    block, transformer = build(class_fusion=fusion)
    features = torch.randn(BATCH, D, 3, 5)
    sparse = torch.randn(BATCH * CLASSES, TOKENS, C)
    dense = torch.randn(BATCH * CLASSES, C, *dense_size)
    position = torch.randn(1, C, 3, 5)
    presence = torch.randn(BATCH, CLASSES).softmax(1)
    arguments = (features, sparse, dense, position, presence)
    result = block(*arguments)
    assert result.shape == (BATCH, C, 3, 5)
    torch.testing.assert_close(
        result, slow_block(block, transformer, *arguments), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_a_certain_class_counts_alone_under_presence():
    """All weight on one class gives what that class alone would give."""
    block, _ = build(class_fusion='presence')
    features, position = torch.randn(1, D, 3, 3), torch.randn(1, C, 3, 3)
    sparse, dense = torch.randn(3, TOKENS, C), torch.randn(3, C, 3, 3)
    all_classes = block(features, sparse, dense, position, torch.tensor([[0.0, 1.0, 0.0]]))
    alone = block(features, sparse[1:2], dense[1:2], position, torch.ones(1, 1))
    torch.testing.assert_close(all_classes, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_classes_that_are_not_pooled_are_each_as_if_alone():
    block, _ = build(class_fusion='none')
    mean, _ = build(class_fusion='mean')
    mean.load_state_dict(block.state_dict())
    features, position = torch.randn(BATCH, D, 3, 5), torch.randn(1, C, 3, 5)
    sparse = torch.randn(BATCH * CLASSES, TOKENS, C)
    dense = torch.randn(BATCH * CLASSES, C, 3, 5)
    presence = torch.full((BATCH, CLASSES), 1 / CLASSES)
    result = block(features, sparse, dense, position, presence)
    assert result.shape == (BATCH, CLASSES, C, 3, 5)
    for b in range(BATCH):
        for n in range(CLASSES):
            m = slice(b * CLASSES + n, b * CLASSES + n + 1)
            one = (features[b : b + 1], sparse[m], dense[m], position, torch.ones(1, 1))
            torch.testing.assert_close(result[b, n], mean(*one)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('trainable', ['attention', 'all', 'none'])
def test_trainable_parameters(trainable):
    block, _ = build(trainable=trainable)
    attention = ('self_attn', 'cross_attn_token_to_image', 'cross_attn_image_to_token')
    seen = {True: 0, False: 0}
    for name, parameter in block.named_parameters():
        part = name.split('.')
        if part[0] == 'layers':
            expected = trainable == 'all' or (trainable == 'attention' and part[2] in attention)
        else:
            assert part[0] in ('image_proj', 'fuse')
            expected = True
        assert parameter.requires_grad == expected, name
        seen[expected] += 1
    assert seen[True] > 0
    assert (seen[False] > 0) == (trainable != 'all')


def test_nothing_but_what_reaches_the_image_tokens():
    """No weight of SAM's last token-to-image attention, which the image tokens do not see."""
    block, transformer = build()
    names = {key for key in transformer.state_dict() if key.startswith('layers.')}
    assert {key for key in block.state_dict() if key.startswith('layers.')} == names
    assert {key.split('.')[0] for key in block.state_dict()} == {'layers', 'image_proj', 'fuse'}


@pytest.mark.parametrize('kwargs', [dict(class_fusion='max'), dict(trainable='mlp')])
def test_bad_arguments(kwargs):
    with pytest.raises(ESCNetError, match=next(iter(kwargs))):
        SAMBlock(image_dims=D, embed_dims=C, num_heads=HEADS, **kwargs)
