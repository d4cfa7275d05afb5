"""VisionLanguageFusion against a plain one that concatenates, all classes at once."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from models.plain_escnet import plain_fusion

from mmseg_escnet import ESCNetError
from mmseg_escnet.models import VisionLanguageFusion
from mmseg_escnet.models.layers import ClassChunks

D, C, DIMS, WINDOW = 12, 10, 16, 4


def build(**kwargs) -> VisionLanguageFusion:
    arguments = dict(text_dims=D, guidance_dims=C, embed_dims=DIMS, num_heads=2, window_size=WINDOW)
    fusion = VisionLanguageFusion(**(arguments | kwargs))
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, std=0.4)
    return fusion.eval()


def inputs(batch=2, classes=3, height=8, width=8):
    correlation = torch.randn(batch, classes, height, width)
    embedding = torch.randn(batch, classes, height, width, DIMS)
    image = torch.randn(batch, C, height, width)
    text = F.normalize(torch.randn(classes, D), dim=-1)
    return correlation, embedding, image, text


def refine(fusion, correlation, embedding, image, text, size=2):
    """In chunks of two classes, a copy of what may be overwritten."""
    embedding = None if embedding is None else embedding.clone()
    return fusion(correlation, embedding, image, text, ClassChunks(size))


# a multiple of the window, not one, smaller than the window, non-square
@pytest.mark.parametrize('size', [(8, 8), (6, 9), (3, 2), (5, 4), (1, 7)])
@pytest.mark.parametrize('first', [True, False])
@torch.no_grad()
def test_equals_concatenations_of_all_classes(size, first):
    fusion = build()
    correlation, embedding, image, text = inputs(height=size[0], width=size[1])
    embedding = None if first else embedding
    result = refine(fusion, correlation, embedding, image, text)
    assert result.shape == (2, 3, *size, DIMS)
    expected = plain_fusion(fusion, correlation, embedding, image, text)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [1, 3, 31, 32, 33, 70])
def test_sums_over_more_classes_than_are_summed_at_a_time(size):
    """70 classes are summed in groups of 32, whatever the chunks."""
    fusion = build().double()
    arguments = [value.double() for value in inputs(classes=70, height=3, width=2)]
    expected = plain_fusion(fusion, *arguments)
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient):
            result = refine(fusion, *arguments, size)
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_embedding_is_overwritten():
    """No class is in memory twice, but where a gradient is computed."""
    fusion = build()
    correlation, embedding, image, text = inputs()
    before = embedding.clone()
    with torch.enable_grad():
        expected = fusion(correlation, embedding, image, text, ClassChunks(2))
    assert embedding.equal(before)
    assert fusion(correlation, embedding, image, text, ClassChunks(2)) is embedding
    torch.testing.assert_close(embedding, expected)


@torch.no_grad()
def test_one_class():
    fusion = build()
    arguments = inputs(classes=1)
    expected = plain_fusion(fusion, *arguments)
    torch.testing.assert_close(refine(fusion, *arguments), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_order_of_classes():
    fusion = build()
    correlation, embedding, image, text = inputs(classes=6)
    order = torch.randperm(6)
    expected = refine(fusion, correlation, embedding, image, text)[:, order]
    result = refine(fusion, correlation[:, order], embedding[:, order], image, text[order])
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_order_of_classes_in_double_precision():
    fusion = build().double()
    correlation, embedding, image, text = (value.double() for value in inputs(classes=6))
    order = torch.randperm(6)
    expected = refine(fusion, correlation, embedding, image, text)[:, order]
    result = refine(fusion, correlation[:, order], embedding[:, order], image, text[order])
    assert (result - expected).abs().max() < 1e-11


def test_windows_are_shifted_in_the_second_block_of_a_pair():
    """What a corner sees ends with its window; what lies at the crossing of windows sees all.

    With windows of 4 on an 8 x 8 grid, shifted by 2 the second time: (0, 0) sees rows and columns
    0 to 3; (3, 3), whose shifted window spans 2 to 5, sees everything.
    """
    fusion = build(swin_blocks='pair')
    correlation, _, image, text = inputs(batch=1, classes=1)
    for (row, column), rows in (((0, 0), range(4)), ((3, 3), range(8)), ((7, 7), range(4, 8))):
        embedding = torch.randn(1, 1, 8, 8, DIMS, requires_grad=True)
        refine(fusion, correlation, embedding, image, text)[0, 0, row, column].sum().backward()
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[rows.start : rows.stop, rows.start : rows.stop] = True
        # the mask of shifted windows is e^-100 rather than 0
        assert (embedding.grad[0, 0].abs().sum(-1) > 1e-20).equal(expected)


@torch.no_grad()
def test_scale_and_offset_of_the_cosines_do_not_matter():
    """Each image on its own: the cosines of one may lie elsewhere than those of the other."""
    fusion = build()
    correlation, embedding, image, text = inputs()
    scale = torch.tensor([0.02, 0.5]).view(2, 1, 1, 1)
    offset = torch.tensor([0.25, -0.1]).view(2, 1, 1, 1)
    expected = refine(fusion, correlation, embedding, image, text)
    result = refine(fusion, correlation * scale + offset, embedding, image, text)
    torch.testing.assert_close(result, expected, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_cosines_that_are_all_equal():
    fusion = build()
    _, embedding, image, text = inputs()
    result = refine(fusion, torch.full((2, 3, 8, 8), 0.25), embedding, image, text)
    assert result.equal(refine(fusion, torch.zeros(2, 3, 8, 8), embedding, image, text))
    assert result.isfinite().all()


@torch.no_grad()
def test_every_input_is_used():
    fusion = build()
    arguments = inputs()
    expected = refine(fusion, *arguments)
    for index in range(4):
        changed = list(arguments)
        changed[index] = torch.randn_like(arguments[index])
        assert (refine(fusion, *changed) - expected).abs().max() > 1e-2, index
    assert (refine(fusion, arguments[0], None, *arguments[2:]) - expected).abs().max() > 1e-2


@torch.no_grad()
def test_without_image_guidance():
    fusion = build(guidance_dims=None)
    assert not [name for name, _ in fusion.named_parameters() if 'image' in name]
    correlation, embedding, _, text = inputs()
    result = refine(fusion, correlation, embedding, None, text)
    expected = plain_fusion(fusion, correlation, embedding, None, text)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_without_text_guidance():
    fusion = build(text_guidance=None)
    assert not [name for name, _ in fusion.named_parameters() if 'text' in name]
    correlation, embedding, image, text = inputs()
    result = refine(fusion, correlation, embedding, image, text)
    assert result.equal(
        refine(fusion, correlation, embedding, image, torch.full_like(text, torch.nan))
    )


@pytest.mark.parametrize('guidance', ['cross', 'self', None])
@torch.no_grad()
def test_which_classes_see_each_other(guidance):
    """Over the classes each sees the others; attention to the words needs no other class's map."""
    fusion = build(text_guidance=guidance)
    correlation, embedding, image, text = inputs()
    result = refine(fusion, correlation, embedding, image, text)
    changed = embedding.clone()
    changed[:, 0] += torch.randn(8, 8, DIMS)
    difference = refine(fusion, correlation, changed, image, text) - result
    assert (difference[:, 0].abs().amax((0, 1, 2)) > 1e-3).all()
    if guidance == 'self':
        assert (difference[:, 1:].abs().amax((0, 2, 3, 4)) > 1e-3).all()
    else:
        assert not difference[:, 1:].any()


@torch.no_grad()
def test_one_more_word_is_seen_by_all_classes():
    """Words without a class of theirs, as those that a shortlist drops."""
    fusion = build()
    correlation, embedding, image, text = inputs()
    more = torch.cat([text, F.normalize(torch.randn(2, D), dim=-1)])
    chunks = ClassChunks(2)
    plain, same, seen = (
        fusion(correlation, embedding.clone(), image, text, chunks, vocabulary=vocabulary)
        for vocabulary in (None, text, more)
    )
    assert same.equal(plain)
    assert ((seen - plain).abs().amax((0, 2, 3, 4)) > 1e-3).all()


@pytest.mark.parametrize(
    ('swin_blocks', 'block_index', 'shifts'),
    [('alternate', 0, [0]), ('alternate', 1, [2]), ('alternate', 2, [0]), ('pair', 0, [0, 2])]
    + [('pair', 3, [0, 2])],
)
def test_windows_are_shifted_in_turn(swin_blocks, block_index, shifts):
    fusion = build(swin_blocks=swin_blocks, block_index=block_index)
    assert [block.attn.shift_size for block in fusion.swin] == [[shift] * 2 for shift in shifts]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(swin_blocks='both'), "swin_blocks='both' must be 'alternate' or 'pair'"),
        (dict(text_guidance=False), "text_guidance=False must be 'cross'"),
        (
            dict(text_guidance='self', own_word=True),
            "own_word=True needs text_guidance='cross'",
        ),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ESCNetError, match=message):
        build(**options)
