"""The convolutional stem in place of the patch embedding."""

import pytest
import torch
from conftest import toy_clip_cfg

from mmseg_escnet import ESCNetError
from mmseg_escnet.models import OpenCLIPBackbone
from mmseg_escnet.toyworld.backbone import ToyCLIPBackbone

STEM = (8, 16, 24)  # of patches of 16: the last convolution halves the resolution once more


def make(stem_channels=STEM, *, seed=0, vision=None, **kwargs):
    torch.manual_seed(seed)
    cfg = toy_clip_cfg(**vision or {})
    return ToyCLIPBackbone(model_cfg=cfg, stem_channels=stem_channels, **kwargs).eval()


@pytest.mark.parametrize('stem_channels', [(12,), (0,), (8, 8, 8, 8, 8)])
def test_stem_that_does_not_fit(stem_channels):
    with pytest.raises(ESCNetError, match=r'stem_channels=.* must be multiples of 8'):
        make(stem_channels)


@pytest.mark.parametrize('stem_channels', [(8,), STEM, (8, 8, 8, 8)])
@torch.no_grad()
def test_only_the_patch_embedding_differs(stem_channels):
    plain, backbone = OpenCLIPBackbone(model_cfg=toy_clip_cfg()).eval(), make(stem_channels)
    for pixels in ((64, 64), (48, 112)):
        images = torch.randn(2, 3, *pixels)
        features, expected = backbone(images), plain(images)
        assert features.image.shape == expected.image.shape
        assert [skip.shape for skip in features.skips] == [skip.shape for skip in expected.skips]
    assert backbone.skip_dims == plain.skip_dims
    own, others = backbone.state_dict(), plain.state_dict()
    assert {key for key in own if '.conv1.' not in key} == {
        key for key in others if '.conv1.' not in key
    }


@torch.no_grad()
def test_open_clip_runs_with_the_stem():
    backbone = make()
    visual = backbone.clip.visual
    images = torch.randn(2, 3, 64, 64)
    tokens, skips = backbone.penultimate(images)
    embedding = visual.ln_post(visual.transformer.resblocks[-1](tokens)[:, 0]) @ visual.proj
    torch.testing.assert_close(visual(images), embedding, rtol=1e-4, atol=1e-5)
    reference = visual.forward_intermediates(images)['image_intermediates']
    for skip, block in zip(skips, reference, strict=False):
        torch.testing.assert_close(skip, block, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_stem_overlaps_patch_borders():
    """One pixel left of a border changes the embedding to the right of it, and none far away."""
    image = torch.randn(1, 3, 128, 128)
    other = image.clone()
    other[0, :, 40, 47] += 3  # in row 2, column 2 of the patches, its last column
    stem = make().clip.visual.conv1
    for number, layer in enumerate(stem):  # which see the whole image
        if isinstance(layer, torch.nn.GroupNorm):
            stem[number] = torch.nn.Identity()
    cells = (stem(image) - stem(other)).abs().amax(1)[0].nonzero().tolist()
    assert [2, 2] in cells
    assert [2, 3] in cells
    assert all(abs(row - 2) <= 1 and abs(column - 2) <= 1 for row, column in cells)


@torch.no_grad()
def test_the_stem_does_not_mix_the_images_of_a_batch():
    """With patches of 8 pixels, as in the toy world: the last convolution keeps the resolution."""
    backbone = make((8, 16, 32), vision=dict(patch_size=8, image_size=48), stride=8)
    backbone.train()  # a batch norm would
    images = torch.randn(3, 3, 40, 104)
    together = backbone(images).image
    assert together.shape == (3, 32, 5, 13)
    for index in range(3):
        alone = backbone(images[index : index + 1]).image
        torch.testing.assert_close(together[index], alone[0], rtol=1e-4, atol=1e-5)


def test_the_stem_is_read_from_clip_weights(tmp_path):
    """As `init_weights()` reads a file of CLIP's own keys."""
    trained = make()
    torch.save(trained.clip.state_dict(), tmp_path / 'clip.pth')
    weights = dict(pretrained=str(tmp_path / 'clip.pth'), activation='gelu')
    backbone = make(seed=1, **weights)
    backbone.init_weights()
    for key, value in trained.clip.state_dict().items():
        assert torch.equal(backbone.clip.state_dict()[key], value), key
    with pytest.raises(ESCNetError, match=r'visual\.conv1'):
        make((8, 16), **weights).init_weights()


@pytest.mark.parametrize('trainable', ['attention', 'all', 'none'])
def test_the_stem_is_trained_with_everything_else(trainable):
    backbone = make(trainable=trainable).train()
    parameters = list(backbone.clip.visual.conv1.parameters())
    assert len(parameters) == 3 * 4 + 2
    assert {parameter.requires_grad for parameter in parameters} == {trainable == 'all'}
    if trainable == 'all':
        backbone(torch.randn(2, 3, 64, 64)).image.square().sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in parameters)
