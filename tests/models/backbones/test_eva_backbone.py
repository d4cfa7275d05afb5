"""OpenCLIPBackbone with an EVA-02 against open_clip's and timm's own forward pass."""

from functools import partial

import huggingface_hub
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import toy_clip_cfg
from safetensors.torch import save_file
from timm.models import eva, register_model
from timm.models.eva import Eva

from mmseg_escnet import ESCNetError
from mmseg_escnet.models import OpenCLIPBackbone

# pixels of the image, patch grid; the grid of the weights is 4 x 4
SIZES = [((64, 64), (4, 4)), ((96, 96), (6, 6)), ((32, 32), (2, 2)), ((48, 112), (3, 7))]
TOY = dict(img_size=64, patch_size=16, embed_dim=48, depth=3, num_heads=3)
EVA02 = dict(
    mlp_ratio=8 / 3,
    swiglu_mlp=True,
    use_rot_pos_emb=True,
    ref_feat_shape=(6, 6),  # of neither the weights nor the images
)


def build(options, kwargs):
    """What timm says on pretrained weights is left out."""
    options = TOY | options | {k: v for k, v in kwargs.items() if not k.startswith('pretrained')}
    trunk = Eva(**{k: v for k, v in options.items() if k != 'cache_dir'})
    trunk.default_cfg = {}  # read by open_clip
    return trunk


@register_model
def eva02_toy(pretrained=False, **kwargs):
    """As EVA02-B-16 and L-14: separate projections, norms within attention and MLP."""
    return build(EVA02 | dict(qkv_fused=False, scale_attn_inner=True, scale_mlp=True), kwargs)


@register_model
def eva02_toy_scaled(pretrained=False, **kwargs):
    """One projection for queries, keys and values; layer scale; a norm before the first block."""
    return build(EVA02 | dict(init_values=0.5, use_pre_transformer_norm=True), kwargs)


@register_model
def eva01_toy(pretrained=False, **kwargs):
    """As EVA01-g-14: no rotary embedding, a plain MLP."""
    return build({}, kwargs)


TRUNKS = ['eva02_toy', 'eva02_toy_scaled', 'eva01_toy']


def clip_cfg(trunk='eva02_toy', **vision):
    eva = dict(image_size=64, timm_model_name=trunk, timm_pool='token', timm_proj=None)
    return toy_clip_cfg() | dict(vision_cfg=eva | vision)


def make(trunk='eva02_toy', *, seed=0, vision=None, **kwargs):
    """A backbone in which everything matters: as built, norms, biases and attention hardly do."""
    torch.manual_seed(seed)
    backbone = OpenCLIPBackbone(model_cfg=clip_cfg(trunk, **vision or {}), **kwargs)
    for name, parameter in backbone.clip.visual.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float('weight' in name), std=0.3)
        else:
            torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
    return backbone.eval()


@pytest.fixture(autouse=True)
def _positions_as_in_the_recipe(monkeypatch):
    """timm resizes them antialiased; plain bicubic is the recipe's, for every CLIP."""
    resize = partial(eva.resample_abs_pos_embed, antialias=False)
    monkeypatch.setattr(eva, 'resample_abs_pos_embed', resize)


def dynamic_twin(backbone, trunk):
    """timm's own model that takes images of any size, with the weights of the backbone."""
    twin = timm.create_model(trunk, num_classes=32, global_pool='token', dynamic_img_size=True)
    twin.load_state_dict(backbone.clip.visual.trunk.state_dict())
    return twin.eval()


@pytest.mark.parametrize('trunk', TRUNKS)
@pytest.mark.parametrize(('pixels', 'grid'), SIZES)
@torch.no_grad()
def test_equals_timm_in_which_the_last_attention_sees_one_token(trunk, pixels, grid):
    """A mask of the identity in timm's last block; all else is timm's own forward pass."""
    backbone = make(trunk)
    twin = dynamic_twin(backbone, trunk)
    images = torch.randn(2, 3, *pixels)
    features = backbone(images)
    assert features.image.shape == (2, 32, *grid)

    *before, _ = twin.forward_intermediates(images, intermediates_only=True)
    assert len(before) == 2
    assert backbone.skip_layers == (1, 2)
    assert backbone.skip_dims == (48, 48)
    for skip, block in zip(features.skips, before, strict=True):
        torch.testing.assert_close(skip, block, rtol=1e-4, atol=1e-4)

    patches = before[1].flatten(2).transpose(1, 2)
    x = torch.cat([torch.randn(2, 1, 48), patches], dim=1)  # whatever the class token is
    rope = None if twin.rope is None else twin.rope.get_embed(grid)
    alone = torch.eye(x.shape[1], dtype=torch.bool)
    x = twin.head(twin.norm(twin.blocks[-1](x, rope, attn_mask=alone)[:, 1:]))
    expected = x.transpose(1, 2).reshape(2, 32, *grid)
    torch.testing.assert_close(features.image, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('trunk', TRUNKS)
@pytest.mark.parametrize(('pixels', 'grid'), SIZES)
@torch.no_grad()
def test_with_its_own_attention_it_is_open_clips_own_embedding(trunk, pixels, grid):
    backbone = make(trunk)
    visual = backbone.clip.visual
    images = torch.randn(2, 3, *pixels)
    tokens, _ = backbone.penultimate(images)
    tokens = visual.trunk.blocks[-1](tokens, *backbone.tower.rotary(*grid))
    embedding = backbone.tower.project(tokens)[:, 0]
    expected = dynamic_twin(backbone, trunk)(images)
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-4)
    if grid == (4, 4):
        torch.testing.assert_close(embedding, backbone.clip.encode_image(images))


@torch.no_grad()
def test_positions_count():
    """Patches that change places give other features: absolute and rotary positions are read."""
    for name in ('pos_embed', 'rope'):
        backbone = make()
        trunk = backbone.clip.visual.trunk
        if name == 'pos_embed':
            trunk.rope = None
        else:
            trunk.pos_embed.zero_()
        images = torch.randn(1, 3, 64, 64)
        moved = backbone(images.roll(16, dims=3)).image.roll(-1, dims=3)
        assert (moved - backbone(images).image).abs().max() > 1e-2, name


@torch.no_grad()
def test_projection_of_the_adapter():
    """open_clip's ``timm_proj='linear'``: a head of its own, none in the trunk."""
    backbone = make(vision=dict(timm_proj='linear'))
    assert not list(backbone.clip.visual.trunk.head.parameters())
    images = torch.randn(2, 3, 64, 64)
    tokens, _ = backbone.penultimate(images)
    tokens = backbone.tower.blocks[-1](tokens, *backbone.tower.rotary(4, 4))
    embedding = backbone.tower.project(tokens)[:, 0]
    torch.testing.assert_close(embedding, backbone.clip.encode_image(images))
    assert backbone(images).image.shape == (2, backbone.embed_dims, 4, 4) == (2, 32, 4, 4)


@torch.no_grad()
def test_images_are_resized_to_whole_patches():
    backbone = make(stride=20)
    images = torch.randn(1, 3, 61, 97)
    features = backbone(images)
    assert features.image.shape[-2:] == (3, 5)
    resized = F.interpolate(images, (48, 80), mode='bilinear', align_corners=False)
    torch.testing.assert_close(features.image, make(stride=16)(resized).image)


def both_towers(backbone):
    features = backbone(torch.randn(2, 3, 48, 96))
    tokens = open_clip.SimpleTokenizer()(['a cat', 'a taxi'], context_length=40)
    return features.image.square().mean() + backbone.clip.encode_text(tokens).square().mean()


@pytest.mark.parametrize('trunk', TRUNKS)
@pytest.mark.parametrize('trainable', ['attention', 'all', 'none'])
def test_gradients_reach_exactly_what_is_trained(trunk, trainable):
    """Queries and keys of the last block are not read, so they are not trained."""
    backbone = make(trunk, trainable=trainable).train()
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
        unread = name.startswith(('clip.logit_scale', *UNREAD[trunk]))
        if not unread and (trainable == 'all' or '.attn.' in name):
            wanted.add(name)
    assert got == wanted == trained
    assert {name.split('.')[1] for name in got} == {'visual', 'text'}
    if trunk == 'eva02_toy':
        last = 'clip.visual.trunk.blocks.2.attn.'
        assert {last + 'v_proj.weight', last + 'norm.weight', last + 'proj.bias'} <= got


LAST = 'clip.visual.trunk.blocks.2.attn.'
UNREAD = {
    'eva02_toy': (LAST + 'q_proj', LAST + 'k_proj'),
    'eva02_toy_scaled': (LAST + 'q_bias',),
    'eva01_toy': (LAST + 'q_bias',),
}


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
    backbone = make(with_cp=True).train()
    backbone(torch.randn(1, 3, 64, 64))
    assert calls == list(backbone.clip.visual.trunk.blocks[:-1])


def test_mixed_precision():
    backbone = make(trainable='all').train()
    images = torch.randn(2, 3, 48, 96)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = backbone(images).image
    full = backbone(images).image
    assert F.cosine_similarity(mixed.float(), full, dim=1).min() > 0.98
    mixed.float().square().mean().backward()


# -- weights -------------------------------------------------------------------------------------


def source_clip(trunk='eva02_toy'):
    torch.manual_seed(7)
    return open_clip.CustomTextCLIP(**clip_cfg(trunk)).eval()


@torch.no_grad()
def assert_is(clip, source):
    images = torch.randn(2, 3, 64, 64)
    tokens = open_clip.SimpleTokenizer()(['a cat', 'a taxi'], context_length=40)
    assert torch.equal(clip.encode_image(images), source.encode_image(images))
    assert torch.equal(clip.encode_text(tokens), source.encode_text(tokens))


@pytest.mark.parametrize('activation', ['auto', 'gelu'])
@pytest.mark.parametrize('suffix', ['.pt', '.safetensors'])
def test_file_loads_and_needs_no_word_on_its_activation(tmp_path, suffix, activation):
    source, path = source_clip(), tmp_path / f'clip{suffix}'
    (save_file if suffix == '.safetensors' else torch.save)(source.state_dict(), path)
    backbone = make(pretrained=str(path), activation=activation)
    backbone.init_weights()
    assert not backbone.quick_gelu
    assert_is(backbone.clip, source)


def test_misfits_are_refused_by_name(tmp_path):
    torch.save(source_clip('eva01_toy').state_dict(), tmp_path / 'clip.pt')
    with pytest.raises(ESCNetError, match=r'does not fit.*visual\.trunk\.blocks\.0\.attn\.q_proj'):
        make(pretrained=str(tmp_path / 'clip.pt')).init_weights()


@pytest.mark.parametrize(
    ('model', 'tag', 'repository'),
    [
        ('EVA02-B-16', 'merged2b_s8b_b131k', 'timm/eva02_base_patch16_clip_224'),
        ('EVA02-L-14-336', 'merged2b_s6b_b61k', 'timm/eva02_large_patch14_clip_336'),
    ],
)
def test_tag_of_open_clip_is_loaded_from_its_cache(tmp_path, monkeypatch, model, tag, repository):
    from mmseg_escnet.models.clip_weights import load_clip

    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    folder = tmp_path / f'models--{repository.replace("/", "--")}.{tag}'
    (folder / 'refs').mkdir(parents=True)
    (folder / 'refs' / 'main').write_text('0123456789abcdef')
    (folder / 'snapshots' / '0123456789abcdef').mkdir(parents=True)
    source, clip = source_clip(), make().clip
    save_file(
        source.state_dict(),
        folder / 'snapshots' / '0123456789abcdef' / 'open_clip_model.safetensors',
    )
    assert load_clip(clip, model_name=model, pretrained=tag, activation='auto') is False
    assert_is(clip, source)


@pytest.mark.parametrize(
    ('model', 'width', 'joint', 'skips', 'native'),
    [
        ('EVA02-B-16', 768, 512, (4, 8), (14, 14)),
        ('EVA02-L-14', 1024, 768, (8, 16), (16, 16)),
        ('EVA02-L-14-336', 1024, 768, (8, 16), (24, 24)),
    ],
)
def test_real_architectures(model, width, joint, skips, native):
    with torch.device('meta'):
        backbone = OpenCLIPBackbone(model_name=model)
        own = open_clip.create_model(model, pretrained=None, device='meta')
    assert {k: v.shape for k, v in backbone.clip.state_dict().items()} == {
        k: v.shape for k, v in own.state_dict().items()
    }
    assert backbone.skip_dims == (width, width)
    assert (backbone.embed_dims, backbone.skip_layers) == (joint, skips)
    assert backbone.tower.grid_size == native
    assert backbone.grid_size(384, 384) == (24, 24)


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(model_name='EVA02-E-14'), 'EVA02-E-14 is neither a plain .* pre-norm EVA-02'),
        (dict(model_name='PE-Core-T-16-384'), 'PE-Core-T-16-384 is neither a plain'),
        (dict(model_cfg=clip_cfg(timm_pool='avg')), 'is neither a plain'),
        (dict(model_cfg=clip_cfg(), activation='quick_gelu'), 'cannot be used with EVA-02'),
        (dict(model_cfg=clip_cfg() | dict(quick_gelu=True)), 'cannot be used with EVA-02'),
        (dict(model_cfg=clip_cfg('eva03_toy')), "timm has no model 'eva03_toy'"),
        (dict(model_cfg=clip_cfg('hf_hub:someone/thing')), "no model 'hf_hub:someone/thing'"),
        (
            dict(
                model_cfg=clip_cfg()
                | dict(text_cfg=toy_clip_cfg()['text_cfg'] | dict(no_causal_mask=True))
            ),
            'text tower',
        ),
    ],
)
def test_refusals(kwargs, message):
    with torch.device('meta'), pytest.raises(ESCNetError, match=message):
        OpenCLIPBackbone(**kwargs)


def test_the_constructor_fetches_no_weights(monkeypatch):
    asked = []
    create_model = timm.create_model

    def watched(*args, pretrained, **kwargs):
        asked.append(pretrained)
        return create_model(*args, pretrained=pretrained, **kwargs)

    monkeypatch.setattr(timm, 'create_model', watched)
    make(vision=dict(timm_model_pretrained=True))
    assert asked == [False]
