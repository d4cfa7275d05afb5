"""OpenCLIPBackbone against open_clip's own forward pass and against a re-computation by hand."""

import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import toy_clip_cfg

from mmseg_escnet import ESCNetError
from mmseg_escnet.models import OpenCLIPBackbone

# pixels of the image, patch grid; the grid of the weights is 4 x 4
SIZES = [((64, 64), (4, 4)), ((96, 96), (6, 6)), ((32, 32), (2, 2)), ((48, 112), (3, 7))]


def make(*, seed=0, **kwargs):
    torch.manual_seed(seed)
    vision = kwargs.pop('vision', {})
    backbone = OpenCLIPBackbone(model_cfg=toy_clip_cfg(**vision) | kwargs.pop('cfg', {}), **kwargs)
    for name, parameter in backbone.named_parameters():
        if 'ln_' in name or name.endswith('bias'):  # as built they are ones and zeros
            torch.nn.init.normal_(parameter, mean=float('weight' in name), std=0.3)
    return backbone.eval()


def native_twin(backbone, grid):
    """open_clip's own image tower for another image size, with the weights of the backbone."""
    visual = backbone.clip.visual
    patch = visual.patch_size[0]
    twin = open_clip.CustomTextCLIP(
        **toy_clip_cfg(image_size=(grid[0] * patch, grid[1] * patch), patch_size=patch)
    ).visual.eval()
    state_dict = visual.state_dict()
    position = state_dict.pop('positional_embedding')
    side = visual.grid_size[0]
    maps = position[1:].reshape(side, side, -1).permute(2, 0, 1)[None]
    maps = F.interpolate(maps, grid, mode='bicubic')  # as the recipe
    rows = [maps[0, :, y, x] for y in range(grid[0]) for x in range(grid[1])]
    state_dict['positional_embedding'] = torch.stack([position[0], *rows])
    twin.load_state_dict(state_dict)
    return twin


def layer_norm(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + (
        norm.bias
    )


def last_block_by_hand(visual, x, quick_gelu=False):
    """(B, D, h, w) of the input (B, W, h, w) of the last block, one patch after the other."""
    block = visual.transformer.resblocks[-1]
    width = x.shape[1]
    result = torch.empty(len(x), visual.proj.shape[1], *x.shape[2:])
    for b in range(len(x)):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                token = x[b, :, i, j]
                normed = layer_norm(token, block.ln_1)
                value_rows = slice(2 * width, 3 * width)  # queries, keys, values
                value = block.attn.in_proj_weight[value_rows] @ normed
                value = value + block.attn.in_proj_bias[value_rows]
                token = token + block.attn.out_proj.weight @ value + block.attn.out_proj.bias
                hidden = block.mlp.c_fc.weight @ layer_norm(token, block.ln_2)
                hidden = hidden + block.mlp.c_fc.bias
                if quick_gelu:
                    hidden = hidden / (1 + torch.exp(-1.702 * hidden))
                else:
                    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
                token = token + block.mlp.c_proj.weight @ hidden + block.mlp.c_proj.bias
                result[b, :, i, j] = layer_norm(token, visual.ln_post) @ visual.proj
    return result


@pytest.mark.parametrize(('pixels', 'grid'), SIZES)
@torch.no_grad()
def test_equals_open_clip_up_to_the_last_block_and_the_value_path_by_hand(pixels, grid):
    backbone = make()
    images = torch.randn(2, 3, *pixels)
    features = backbone(images)
    assert features.image.shape == (2, 32, *grid)
    assert [skip.shape for skip in features.skips] == [(2, 48, *grid)] * 2

    reference = native_twin(backbone, grid).forward_intermediates(images)['image_intermediates']
    assert len(reference) == 3
    for skip, block in zip(features.skips, reference, strict=False):  # blocks 1 and 2 of 3
        torch.testing.assert_close(skip, block, rtol=1e-4, atol=1e-5)
    by_hand = last_block_by_hand(backbone.clip.visual, reference[1])
    torch.testing.assert_close(features.image, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('pixels', 'grid'), SIZES)
@torch.no_grad()
def test_penultimate_is_what_the_last_block_of_open_clip_reads(pixels, grid):
    """Its last block, norm and projection at the class token give open_clip's own embedding."""
    backbone = make()
    visual = backbone.clip.visual
    images = torch.randn(2, 3, *pixels)
    tokens, skips = backbone.penultimate(images)
    assert tokens.shape == (2, 1 + grid[0] * grid[1], 48)
    assert [skip.shape for skip in skips] == [(2, 48, *grid)] * 2
    embedding = visual.ln_post(visual.transformer.resblocks[-1](tokens)[:, 0]) @ visual.proj
    own = visual if grid == tuple(visual.grid_size) else native_twin(backbone, grid)
    torch.testing.assert_close(embedding, own(images), rtol=1e-4, atol=1e-5)
    if own is visual:
        torch.testing.assert_close(embedding, backbone.clip.encode_image(images))


@pytest.mark.parametrize(('model', 'skips'), [('ViT-B-16', (4, 8)), ('ViT-L-14-336', (8, 16))])
def test_skips_and_widths_of_the_real_architectures(model, skips):
    with torch.device('meta'):
        backbone = OpenCLIPBackbone(model_name=model)
    assert backbone.skip_layers == skips
    assert backbone.grid_size(384, 384) == (24, 24)
    expected = {'ViT-B-16': (512, 768), 'ViT-L-14-336': (768, 1024)}[model]
    assert (backbone.embed_dims, backbone.skip_dims[0]) == expected


@pytest.mark.parametrize(
    ('depth', 'skips'), [(4, (1, 3)), (5, (2, 3)), (32, (11, 21)), (40, (13, 27))]
)
def test_skips_of_a_depth_that_three_does_not_divide(depth, skips):
    """The nearest blocks; 32 and 40 are those of ViT-H and ViT-g."""
    with torch.device('meta'):
        assert make(vision=dict(layers=depth)).skip_layers == skips


def test_too_shallow_for_two_skips():
    with pytest.raises(ESCNetError, match='has 2 layers'):
        make(vision=dict(layers=2))


@torch.no_grad()
def test_patch_14_covers_16_pixels():
    """Images are resized so that a patch of 14 covers as many pixels as the stride says."""
    backbone = make(vision=dict(patch_size=14, image_size=56), stride=16)
    images = torch.randn(1, 3, 64, 96)
    features = backbone(images)
    assert features.image.shape[-2:] == (4, 6)
    resized = F.interpolate(images, (56, 84), mode='bilinear', align_corners=False)
    same = make(vision=dict(patch_size=14, image_size=56), stride=14)(resized)
    torch.testing.assert_close(features.image, same.image)
    torch.testing.assert_close(features.skips[1], same.skips[1])


def test_size_that_is_no_multiple_of_the_stride():
    backbone = make()
    assert backbone.grid_size(70, 41) == (4, 3)
    assert backbone.grid_size(3, 5) == (1, 1)
    assert backbone(torch.randn(1, 3, 70, 41)).image.shape == (1, 32, 4, 3)


@torch.no_grad()
def test_quick_gelu_changes_the_numbers():
    images = torch.randn(1, 3, 64, 64)
    gelu, quick = make(activation='gelu'), make(activation='quick_gelu')
    by_config = make(cfg=dict(quick_gelu=True))
    assert not gelu.quick_gelu
    assert quick.quick_gelu
    assert by_config.quick_gelu
    for first, second in zip(gelu.parameters(), quick.parameters(), strict=True):
        assert torch.equal(first, second)
    for backbone, is_quick in ((gelu, False), (quick, True)):
        before_last = backbone.clip.visual.forward_intermediates(images)['image_intermediates'][1]
        expected = last_block_by_hand(backbone.clip.visual, before_last, quick_gelu=is_quick)
        torch.testing.assert_close(backbone(images).image, expected, rtol=1e-4, atol=1e-5)
    assert (gelu(images).image - quick(images).image).abs().max() > 1e-3
    assert torch.equal(quick(images).image, by_config(images).image)
    # open_clip's own model of that config has the activation in both towers
    reference = open_clip.CustomTextCLIP(**toy_clip_cfg(), quick_gelu=True).eval()
    reference.load_state_dict(quick.clip.state_dict())
    tokens = open_clip.SimpleTokenizer()(['a cat', 'a taxi'], context_length=40)
    assert torch.equal(quick.clip.encode_image(images), reference.encode_image(images))
    assert torch.equal(quick.clip.encode_text(tokens), reference.encode_text(tokens))


@torch.no_grad()
def test_activation_travels_with_the_state_dict():
    images = torch.randn(1, 3, 64, 64)
    quick, other = make(activation='quick_gelu'), make(seed=1)
    other.load_state_dict(quick.state_dict())
    assert torch.equal(quick(images).image, other(images).image)
    back = make(seed=2, activation='quick_gelu')
    gelu = make()
    back.load_state_dict(gelu.state_dict())
    assert torch.equal(gelu(images).image, back(images).image)


def both_towers(backbone):
    features = backbone(torch.randn(2, 3, 64, 64))
    tokens = open_clip.SimpleTokenizer()(['a cat', 'a taxi'], context_length=40)
    text = backbone.clip.encode_text(tokens)
    return features.image.square().mean() + text.square().mean()


@pytest.mark.parametrize('trainable', ['attention', 'all', 'none'])
def test_gradients_reach_exactly_what_is_trained(trainable):
    backbone = make(trainable=trainable).train()
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    loss = both_towers(backbone)
    if trainable == 'none':
        assert not trained
        assert not loss.requires_grad
        return
    loss.backward()
    got, wanted = set(), set()
    for name, parameter in backbone.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().sum() > 0:
            got.add(name)
        if name != 'clip.logit_scale' and (trainable == 'all' or '.attn.' in name):
            wanted.add(name)
    assert got == wanted == trained
    assert len(got) >= 4 * (3 + 2)
    assert {name.split('.')[1] for name in got} == {'visual', 'text'}


def test_checkpointing_changes_nothing():
    results = []
    for with_cp in (False, True):
        backbone = make(with_cp=with_cp, trainable='all').train()
        torch.manual_seed(1)
        loss = both_towers(backbone)
        loss.backward()
        results.append((loss, [p.grad for p in backbone.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0])
    for plain, recomputed in zip(*(grads for _, grads in results), strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_checkpointing_recomputes_every_block_but_the_last(monkeypatch):
    from mmseg_escnet.models.backbones import open_clip as module

    calls = []

    def counted(block, *arguments, use_reentrant):
        calls.append(block)
        return block(*arguments)

    monkeypatch.setattr(module, 'checkpoint', counted)
    backbone = make(with_cp=True)
    backbone(torch.randn(1, 3, 64, 64))
    assert calls == []  # eval
    backbone.train()(torch.randn(1, 3, 64, 64))
    assert calls == list(backbone.clip.visual.transformer.resblocks[:-1])
