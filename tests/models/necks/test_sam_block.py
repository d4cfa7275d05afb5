"""SAMBlock against segment_anything's TwoWayTransformer and against all classes at once."""

import pytest
import torch
import torch.nn as nn
from models.plain_escnet import plain_sam_block
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
    sizes = dict(image_dims=D, embed_dims=C, num_heads=HEADS, mlp_dims=MLP)
    block = randomise(SAMBlock(**(sizes | dict(layers='all') | kwargs)))
    prefix = 'layers.'
    block.layers.load_state_dict(
        {
            key[len(prefix) :]: value
            for key, value in transformer.state_dict().items()
            if key.startswith(prefix) and key.split('.')[1] in block.layers
        }
    )
    return block.eval(), transformer.eval()


def understand(block, features, sparse, dense, position, presence, *, size=CLASSES):
    """F_v', that many classes at a time."""
    image, batch = block.image_proj(features), len(features)
    parts = [
        block(image, some.flatten(0, 1), maps.flatten(0, 1), position, weights)
        for some, maps, weights in zip(
            sparse.unflatten(0, (batch, -1)).split(size, dim=1),
            dense.unflatten(0, (batch, -1)).split(size, dim=1),
            block.class_weights(presence).split(size, dim=1),
            strict=True,
        )
    ]
    return block.fuse(sum(parts))


def inputs(dense_size=(3, 5)):
    """F_v, prompts, positions and presence."""
    return (
        torch.randn(BATCH, D, 3, 5),
        torch.randn(BATCH * CLASSES, TOKENS, C),
        torch.randn(BATCH * CLASSES, C, *dense_size),
        torch.randn(1, C, 3, 5),
        torch.randn(BATCH, CLASSES).softmax(1),
    )


@pytest.mark.parametrize(('height', 'width'), [(4, 4), (3, 5)])
@torch.no_grad()
def test_image_tokens_are_those_of_sam(height, width):
    block, transformer = build()
    image = torch.randn(BATCH, C, height, width)
    position = torch.randn(1, C, height, width)
    sparse = torch.randn(BATCH, TOKENS, C)
    tokens = block.image_tokens(
        image.flatten(2).transpose(1, 2), position.flatten(2).transpose(1, 2), sparse
    )
    expected = transformer(image, position.expand_as(image), sparse)[1]
    assert tokens.shape == (BATCH, height * width, C)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('fusion', ['mean', 'presence'])
@pytest.mark.parametrize('dense_size', [(3, 5), (1, 1)])
@pytest.mark.parametrize('size', [1, 2, CLASSES])
@torch.no_grad()
def test_equals_all_classes_at_once(fusion, dense_size, size):
    block, _ = build(class_fusion=fusion)
    arguments = inputs(dense_size)
    result = understand(block, *arguments, size=size)
    assert result.shape == (BATCH, C, 3, 5)
    expected = plain_sam_block(block, *arguments)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_class_weights():
    """Of all classes, to be split afterwards."""
    presence = torch.randn(BATCH, 4).softmax(1)
    assert build(class_fusion='presence')[0].class_weights(presence).allclose(presence)
    weights = build(class_fusion='mean')[0].class_weights(presence)
    assert weights.equal(torch.full((BATCH, 4), 0.25))


def test_class_weights_of_classes_that_count_several_times():
    presence, times = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([1.0, 1.0, 2.0])
    mean, by_presence = (build(class_fusion=kind)[0] for kind in ('mean', 'presence'))
    assert mean.class_weights(presence, times).tolist() == [[0.25, 0.25, 0.5]]
    expected = torch.tensor([[0.4, 0.2, 0.4]])
    torch.testing.assert_close(by_presence.class_weights(presence, times), expected)


@torch.no_grad()
def test_a_certain_class_counts_alone_under_presence():
    """All weight on one class gives what that class alone would give."""
    block, _ = build(class_fusion='presence')
    features, sparse, dense, position, _ = inputs()
    one = torch.tensor([[0.0, 1.0, 0.0]]).expand(BATCH, -1)
    together = understand(block, features, sparse, dense, position, one)
    alone = understand(
        block, features, sparse[1::3], dense[1::3], position, torch.ones(BATCH, 1), size=1
    )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('block_index', 'number'), [(0, '0'), (1, '1'), (2, '0'), (3, '1')])
def test_one_layer_in_turn(block_index, number):
    """Layer t mod 2 of SAM's two, by the number that it has in a checkpoint."""
    block, transformer = build(layers='alternate', block_index=block_index)
    assert list(block.layers) == [number]
    own = transformer.layers[int(number)].state_dict()
    assert all(value.equal(own[key]) for key, value in block.layers[number].state_dict().items())
    assert block.layers[number].skip_first_layer_pe == (number == '0')


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


@pytest.mark.parametrize(
    'kwargs', [dict(class_fusion='max'), dict(trainable='mlp'), dict(layers='both')]
)
def test_bad_arguments(kwargs):
    with pytest.raises(ESCNetError, match=next(iter(kwargs))):
        SAMBlock(image_dims=D, embed_dims=C, num_heads=HEADS, **kwargs)
