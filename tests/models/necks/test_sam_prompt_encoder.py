"""SAMPromptEncoder against segment_anything's own PromptEncoder, called plainly."""

import pytest
import torch
import torch.nn as nn
from models.plain_escnet import plain_box, plain_dense, plain_sam, plain_sparse

from mmseg_escnet import ESCNetError
from mmseg_escnet.models import SAMPromptEncoder
from mmseg_escnet.models.necks import PseudoPrompts
from mmseg_escnet.models.necks.sam_prompt_encoder import mask_boxes

C, MASK_CHANNELS = 16, 8
BATCH, CLASSES, OBJECTS = 2, 3, 4


def random_prompts(height, width) -> PseudoPrompts:
    """Disjoint random objects; some invalid, all four of the last class of image 0."""
    owner = torch.randint(-1, OBJECTS, (BATCH, CLASSES, 1, height, width))
    members = owner == torch.arange(OBJECTS)[:, None, None]
    masks = (0.5 + torch.rand(BATCH, CLASSES, 1, height, width) / 2) * members
    valid = torch.rand(BATCH, CLASSES, OBJECTS) < 0.6
    valid[0, 0] = torch.tensor([True, False, True, False])
    valid[0, 2] = False
    valid[1, 1] = True
    assert members.flatten(3).any(-1)[valid].all()
    return PseudoPrompts(
        points=torch.rand(BATCH, CLASSES, OBJECTS, 2),
        valid=valid,
        masks=masks,
        region=members.any(2),
        presence=torch.rand(BATCH, CLASSES).softmax(1),
    )


def build(**kwargs) -> SAMPromptEncoder:
    encoder = SAMPromptEncoder(embed_dims=C, mask_channels=MASK_CHANNELS, **kwargs)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return encoder


ALL_KINDS = [
    ('points',),
    ('masks',),
    ('boxes',),
    ('points', 'masks'),
    ('points', 'boxes'),
    ('masks', 'boxes'),
    ('points', 'boxes', 'masks'),
]


@pytest.mark.parametrize(('height', 'width'), [(4, 4), (5, 7), (6, 3)])
@pytest.mark.parametrize('kinds', ALL_KINDS, ids='+'.join)
@torch.no_grad()
def test_equals_sam(kinds, height, width):
    prompts = random_prompts(height, width)
    encoder = build(prompts=kinds)
    sam = plain_sam(encoder, height, width)
    sparse, dense = encoder(prompts)
    expected = plain_sparse(sam, prompts, kinds)
    tokens = ('points' in kinds) * OBJECTS + 2 * ('boxes' in kinds) * OBJECTS
    tokens += 'boxes' not in kinds  # SAM's padding; all there is if there are masks alone
    assert sparse.shape == (BATCH * CLASSES, tokens, C)
    torch.testing.assert_close(sparse, expected, rtol=1e-4, atol=1e-4)
    if 'masks' in kinds:
        assert dense.shape == (BATCH * CLASSES, C, height, width)
        torch.testing.assert_close(dense, plain_dense(sam, prompts), rtol=1e-4, atol=1e-4)
    else:
        no_mask = sam(points=None, boxes=None, masks=None)[1]
        assert dense.expand(-1, -1, height, width).equal(
            no_mask.expand(BATCH * CLASSES, -1, -1, -1)
        )


@torch.no_grad()
def test_masks_as_probabilities():
    prompts = random_prompts(5, 4)
    encoder = build(prompts='masks', mask_as_logits=False)
    dense = encoder(prompts)[1]
    sam = plain_sam(encoder, 5, 4)
    expected = plain_dense(sam, prompts, as_logits=False)
    torch.testing.assert_close(dense, expected, rtol=1e-4, atol=1e-4)
    assert (dense - plain_dense(sam, prompts)).abs().max() > 0.1


@torch.no_grad()
def test_no_valid_object_at_all():
    prompts = random_prompts(5, 4)
    prompts.valid[:] = False
    encoder = build(prompts=('points', 'boxes', 'masks'))
    sparse, dense = encoder(prompts)
    assert sparse.equal(encoder.encoder.not_a_point_embed.weight.expand_as(sparse))
    no_mask = encoder.encoder.no_mask_embed.weight[..., None, None]
    torch.testing.assert_close(dense, no_mask.expand_as(dense))


@pytest.mark.parametrize('kinds', ALL_KINDS, ids='+'.join)
@torch.no_grad()
def test_invalid_objects_are_not_looked_at(kinds):
    prompts = random_prompts(5, 4)
    encoder = build(prompts=kinds)
    expected = encoder(prompts)
    invalid = ~prompts.valid
    prompts.points[invalid] = torch.rand(int(invalid.sum()), 2)
    prompts.masks[invalid] = torch.rand(int(invalid.sum()), 5, 4)
    prompts.masks[0, 2] = torch.nan  # as of a class whose map is not a number
    changed = encoder(prompts)
    torch.testing.assert_close(changed, expected)
    assert not changed[1].isnan().any()


@torch.no_grad()
def test_valid_objects_are_looked_at():
    prompts = random_prompts(5, 4)
    encoder = build(prompts=('points', 'boxes', 'masks'))
    sparse, dense = encoder(prompts)
    prompts.points[1, 1, 2] += 0.1
    assert (encoder(prompts)[0] != sparse).any(-1).nonzero().tolist() == [[4, 2]]
    prompts.masks[1, 1, 2] = prompts.masks[1, 1, 2].flip(1)
    assert (encoder(prompts)[1] != dense).flatten(1).any(1).nonzero().tolist() == [[4]]


def test_mask_boxes():
    masks = torch.rand(40, 5, 8) < 0.08
    masks[0] = False
    masks[1] = True
    assert masks.flatten(1).any(1).sum() > 20
    expected = torch.tensor([plain_box(mask) for mask in masks])
    torch.testing.assert_close(mask_boxes(masks), expected)
    assert mask_boxes(masks)[0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(('height', 'width'), [(4, 4), (5, 7), (1, 3)])
def test_position_encoding(height, width):
    encoder = build()
    position = encoder.position_encoding(height, width)
    assert position.shape == (1, C, height, width)
    assert position.equal(plain_sam(encoder, height, width).get_dense_pe())


@torch.no_grad()
def test_a_point_is_encoded_as_the_image_token_at_its_place():
    """The centre of a patch has the patch's positional encoding: points meet the right tokens."""
    height, width = 3, 5
    encoder = build(prompts='points')
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    centres = (torch.stack([x, y], -1).flatten(0, 1) + 0.5) / torch.tensor([width, height])
    prompts = PseudoPrompts(
        points=centres[None, None],
        valid=torch.ones(1, 1, height * width, dtype=torch.bool),
        masks=torch.zeros(1, 1, height * width, height, width),
        region=torch.ones(1, 1, height, width, dtype=torch.bool),
        presence=torch.ones(1, 1),
    )
    tokens = encoder(prompts)[0][0, :-1] - encoder.encoder.point_embeddings[1].weight
    expected = encoder.position_encoding(height, width)[0].flatten(1).T
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_autocast():
    """Leaves the sines of large angles alone; the convolutions of masks take the lower type."""
    prompts = random_prompts(5, 4)
    encoder = build(prompts=('points', 'boxes', 'masks'))
    expected = (*encoder(prompts), encoder.position_encoding(5, 4))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        result = (*encoder(prompts), encoder.position_encoding(5, 4))
    sparse, dense, position = zip(result, expected, strict=True)
    assert sparse[0].equal(sparse[1])
    assert position[0].equal(position[1])
    assert dense[0].dtype == torch.bfloat16
    assert (dense[0] - dense[1]).norm() < 0.02 * dense[1].norm()


def test_frozen():
    encoder = build()
    parameters = list(encoder.parameters())
    assert parameters
    assert not any(parameter.requires_grad for parameter in parameters)
    assert not any(value.requires_grad for value in encoder(random_prompts(4, 4)))


@pytest.mark.parametrize('prompts', [(), ('point',), ('points', 'text'), 'mask'])
def test_bad_prompts(prompts):
    with pytest.raises(ESCNetError, match='prompts='):
        SAMPromptEncoder(prompts=prompts)
