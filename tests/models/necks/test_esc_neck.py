"""ESCBlock and ESCNeck: what goes from block to block, what is trained, what may not matter."""

from collections import Counter

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import toy_model_cfg
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from segment_anything.modeling import PromptEncoder, TwoWayTransformer

from mmseg_escnet import ESCNetError
from mmseg_escnet.models.backbones.open_clip import DenseFeatures
from mmseg_escnet.models.layers import ClassChunks

D = 32
WORDS = ['cat', 'dog', 'sky', 'wet road']


def build(num_blocks=2, randomise=True, **neck):
    """A neck alone; with ``randomise`` its correlation update is not at its initial zero."""
    neck = MODELS.build(
        toy_model_cfg(num_blocks=num_blocks, neck=neck)['neck'], default_args=dict(image_dims=D)
    )
    if randomise:
        for block in neck.blocks[:-1]:
            nn.init.normal_(block.correlation_update.weight, std=0.1)
    return neck


def inputs(batch=2, classes=4, height=6, width=5):
    image = torch.randn(batch, D, height, width)
    features = DenseFeatures(image=image, skips=(torch.randn(batch, 48, height, width),) * 2)
    text = F.normalize(torch.randn(classes, D), dim=-1)
    return features, correlate(features, text), text, torch.tensor(20.0)


def correlate(features, text):
    return torch.einsum('bdhw,nd->bnhw', F.normalize(features.image, dim=1), text)


def select(features, index) -> DenseFeatures:
    return DenseFeatures(
        image=features.image[index], skips=tuple(skip[index] for skip in features.skips)
    )


@torch.no_grad()
def test_blocks_are_chained():
    """C_t = C_{t-1} + conv1x1(E_t); the next block reads C_t and E_t; the last has no update."""
    neck = build(num_blocks=3)
    features, correlation, text, scale = inputs()
    result = neck(features, correlation, text, scale, keep_blocks=True)
    assert len(result.blocks) == 3
    assert result.skips is features.skips
    assert result.image is features.image
    embedding = None
    for index, (block, output) in enumerate(zip(neck.blocks, result.blocks, strict=True)):
        assert output.read is correlation
        prompts = neck.prompt_generator(correlation, scale)
        for name, value in vars(prompts).items():
            assert getattr(output.prompts, name).equal(value), name
        sparse, dense = neck.prompt_encoder(prompts)
        position = neck.prompt_encoder.position_encoding(6, 5)
        weights = block.sam_block.class_weights(prompts.presence)
        image = block.sam_block.image_proj(features.image)
        guidance = block.sam_block(image, sparse, dense, position, weights)
        guidance = block.sam_block.fuse(guidance)
        torch.testing.assert_close(output.image_features, guidance)
        embedding = None if embedding is None else embedding.clone()
        embedding = block.fusion(correlation, embedding, guidance, text, ClassChunks(4))
        torch.testing.assert_close(output.embedding, embedding)
        if index < 2:
            update = block.correlation_update
            expected = correlation + (embedding * update.weight[0]).sum(-1)
            if update.bias is not None:
                expected = expected + update.bias
            assert (expected - correlation).abs().max() > 0.01
        else:
            assert block.correlation_update is None
            expected = correlation
        torch.testing.assert_close(output.correlation, expected, rtol=1e-4, atol=1e-5)
        correlation, embedding = output.correlation, output.embedding
    assert result.embedding.equal(embedding)
    torch.testing.assert_close(result.correlation_logits, correlation * 20)
    assert result.embedding.shape == (2, 4, 6, 5, 16)


@torch.no_grad()
def test_an_untrained_network_starts_from_the_map_of_clip():
    neck = build(num_blocks=4, randomise=False)
    features, correlation, text, scale = inputs()
    blocks = neck(features, correlation, text, scale, keep_blocks=True).blocks
    assert len(blocks) == 4
    assert all(block.correlation.equal(correlation) for block in blocks)
    for block in neck.blocks[:-1]:
        assert not any(p.any() for p in block.correlation_update.parameters())


@torch.no_grad()
def test_blocks_are_kept_on_demand_only():
    neck = build()
    result = neck(*inputs())
    assert result.blocks == []


VARIANTS = {
    'default': {},
    'one block': dict(num_blocks=1),
    'three blocks': dict(num_blocks=3),
    'no SAM block': dict(sam_block=None),
    'no image guidance': dict(image_guidance=False),
    'SAM all trained': dict(sam_block=dict(trainable='all')),
    'SAM frozen': dict(sam_block=dict(trainable='none')),
    'presence': dict(sam_block=dict(class_fusion='presence')),
    'both SAM layers': dict(sam_block=dict(layers='all')),
    'points': dict(prompt_encoder=dict(prompts=('points',))),
    'masks': dict(prompt_encoder=dict(prompts=('masks',))),
    'boxes': dict(prompt_encoder=dict(prompts=('boxes',))),
    'points and boxes': dict(prompt_encoder=dict(prompts=('points', 'boxes'))),
    'masks as probabilities': dict(prompt_encoder=dict(mask_as_logits=False)),
    'K = 1': dict(prompt_generator=dict(num_objects=1)),
    'K automatic': dict(prompt_generator=dict(num_objects='auto')),
    'no text guidance': dict(fusion=dict(text_guidance=None)),
    'own word': dict(fusion=dict(own_word=True)),
    'attention over the classes': dict(fusion=dict(text_guidance='self')),
    'MLP': dict(fusion=dict(text_mlp_ratio=2.0)),
    'Swin pair': dict(fusion=dict(swin_blocks='pair')),
    'two convolutions': dict(decode_head=dict(num_convs=2)),
    'CLIP all trained': dict(backbone=dict(trainable='all')),
    'CLIP frozen': dict(backbone=dict(trainable='none')),
    'sigmoid loss': dict(
        decode_head=dict(loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
    ),
}


def variant_cfg(name) -> dict:
    """The toy ESC-Net with one thing changed."""
    changes = dict(VARIANTS[name])
    cfg = toy_model_cfg(num_blocks=changes.pop('num_blocks', 2))
    for key, change in changes.items():
        owner = cfg if key in cfg else cfg['neck']
        owner[key] = owner[key] | change if isinstance(change, dict) else change
    return cfg


def labelled(size=(64, 48), batch=2):
    labels = torch.randint(0, len(WORDS), (batch, *size))
    labels[:, :3] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]
    return torch.randn(batch, 3, *size), samples


def invisible_to_softmax(key, name):
    """What is added to all keys or to all classes alike, and attention to a single token."""
    if name == 'masks' and '.sam_block.' in key:
        to_a_prompt = 'self_attn' in key or 'cross_attn_image_to_token' in key
        if to_a_prompt and ('.q_proj.' in key or '.k_proj.' in key):
            return True
    if key == 'decode_head.predict_logits.bias':
        return name != 'sigmoid loss'
    return key.endswith('k_proj.bias')


@pytest.mark.parametrize('name', VARIANTS)
def test_gradient_reaches_all_that_is_trained_and_nothing_else(name):
    cfg = variant_cfg(name)
    model = MODELS.build(cfg).train()
    model.set_vocabulary(WORDS)
    losses = model.loss(*labelled())
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    trained = 0
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f'{key} is frozen'
            continue
        trained += 1
        assert parameter.grad is not None, f'{key} has no gradient'
        assert parameter.grad.isfinite().all(), key
        if invisible_to_softmax(key, name):
            assert parameter.grad.abs().max() < 1e-6, f'{key} is not what the test takes it for'
        else:
            assert parameter.grad.abs().max() > 1e-9, f'{key} has a gradient of zero'
    assert trained > 20


@pytest.mark.parametrize(
    'name',
    ['default', 'no SAM block', 'no image guidance', 'SAM all trained', 'SAM frozen']
    + ['CLIP all trained', 'CLIP frozen'],
)
def test_trainable_parts(name):
    """Exactly the parts that the variant names are frozen."""
    model = MODELS.build(variant_cfg(name))
    clip = {'CLIP all trained': 'all', 'CLIP frozen': 'none'}.get(name, 'attention')
    sam = {'SAM all trained': 'all', 'SAM frozen': 'none'}.get(name, 'attention')
    seen_sam = 0
    for key, parameter in model.named_parameters():
        if key.startswith('backbone.'):
            expected = 'logit_scale' not in key and (
                clip == 'all' or (clip == 'attention' and '.attn.' in key)
            )
        elif key.startswith('neck.prompt_encoder.'):
            expected = False
        elif '.sam_block.layers.' in key:
            seen_sam += 1
            expected = sam == 'all' or (sam == 'attention' and 'attn' in key)
        else:
            expected = True
        assert parameter.requires_grad == expected, key
    assert (seen_sam == 0) == (name in ('no SAM block', 'no image guidance'))


def test_blocks_take_turns():
    """Every second one shifts its windows and has SAM's second layer."""
    blocks = build(num_blocks=4).blocks
    assert [block.fusion.swin[0].attn.shift_size[0] for block in blocks] == [0, 2, 0, 2]
    assert [list(block.sam_block.layers) for block in blocks] == [['0'], ['1'], ['0'], ['1']]


def test_no_weight_without_effect():
    """A constant added to C_t changes neither its prompts nor its standardised embedding."""
    assert all(block.correlation_update.bias is None for block in build().blocks[:-1])


@pytest.mark.parametrize('changes', [{}, dict(sam_block=None)], ids=['SAM block', 'none'])
def test_image_features_have_a_gradient_of_their_own(changes):
    """Not only by way of the correlation."""
    features, *others = inputs()
    features.image.requires_grad_()
    build(**changes)(features, *(value.detach() for value in others)).embedding.sum().backward()
    assert (features.image.grad.abs().amax((1, 2, 3)) > 1e-6).all()


def test_what_an_ablation_leaves_out():
    neck = build(sam_block=None)
    assert neck.prompt_encoder is None
    assert neck.prompt_generator is None
    assert all(isinstance(block.image_proj, nn.Conv2d) for block in neck.blocks)
    features, *others = inputs()
    output = neck(features, *others, keep_blocks=True).blocks[0]
    assert output.prompts is None
    torch.testing.assert_close(
        output.image_features, neck.blocks[0].image_proj(features.image), rtol=1e-4, atol=1e-5
    )
    neck = build(image_guidance=False)
    output = neck(features, *others, keep_blocks=True).blocks[0]
    assert output.prompts is None
    assert output.image_features is None
    assert neck.prompt_encoder is None
    without_image = DenseFeatures(image=features.image * torch.nan, skips=features.skips)
    assert neck(without_image, *others).embedding.equal(neck(features, *others).embedding)


@pytest.mark.parametrize(
    'name',
    ['default', 'presence', 'boxes', 'no SAM block', 'K automatic', 'own word']
    + ['attention over the classes'],
)
@torch.no_grad()
def test_order_of_classes(name):
    cfg = variant_cfg(name)['neck']
    neck = MODELS.build(cfg, default_args=dict(image_dims=D))
    nn.init.normal_(neck.blocks[0].correlation_update.weight, std=0.1)
    features, correlation, text, scale = inputs(classes=7)
    order = torch.randperm(7)
    expected = neck(features, correlation, text, scale, 3, keep_blocks=True)
    result = neck(features, correlation[:, order], text[order], scale, 3, keep_blocks=True)
    for one, other in zip(result.blocks, expected.blocks, strict=True):
        torch.testing.assert_close(one.embedding, other.embedding[:, order], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            one.correlation, other.correlation[:, order], rtol=1e-3, atol=1e-4
        )


@torch.no_grad()
def test_one_more_class():
    """The prompts of the others stay; what they turn into changes, through what classes share."""
    neck = build()
    features, correlation, text, scale = inputs(classes=5)
    more = neck(features, correlation, text, scale, keep_blocks=True)
    fewer = neck(features, correlation[:, :4], text[:4], scale, keep_blocks=True)
    assert more.embedding.shape == (2, 5, 6, 5, 16)
    assert fewer.embedding.shape == (2, 4, 6, 5, 16)
    first_more, first_fewer = more.blocks[0].prompts, fewer.blocks[0].prompts
    for name in ('points', 'valid', 'masks', 'region'):
        assert getattr(first_more, name)[:, :4].equal(getattr(first_fewer, name)), name
    assert (more.blocks[0].image_features - fewer.blocks[0].image_features).abs().max() > 1e-4
    assert (more.embedding[:, :4] - fewer.embedding).abs().max() > 1e-4


@pytest.mark.parametrize('name', ['default', 'no SAM block', 'attention over the classes'])
def test_activation_checkpointing(name):
    """Same loss and same gradients, with fewer activations kept: each chunk runs twice."""
    results = []
    images, samples = labelled()
    for with_cp in (False, True):
        torch.manual_seed(1)
        cfg = variant_cfg(name)
        cfg['neck']['with_cp'] = cfg['backbone']['with_cp'] = with_cp
        model = MODELS.build(cfg).train()
        nn.init.normal_(model.neck.blocks[0].correlation_update.weight, std=0.1)
        model.set_vocabulary(WORDS)
        calls = []
        recomputed = [
            *model.backbone.clip.visual.transformer.resblocks[:-1],
            *(block.sam_block for block in model.neck.blocks if block.sam_block is not None),
            *(block.fusion.correlation_proj for block in model.neck.blocks),
            *(swin.mlp for block in model.neck.blocks for swin in block.fusion.swin),
            model.decode_head.predict_logits,
        ]
        if name == 'attention over the classes':
            recomputed += [b.fusion.class_attention.value for b in model.neck.blocks]
            recomputed += [b.fusion.class_attention.out for b in model.neck.blocks]
        else:
            recomputed += [b.fusion.text_attention.query for b in model.neck.blocks]
        for part in recomputed:
            part.register_forward_pre_hook(lambda module, _, calls=calls: calls.append(module))
        loss = model.loss(images, samples)['decode.loss_ce']
        in_forward = Counter(calls)
        assert set(in_forward) == set(recomputed)
        loss.backward()
        assert Counter(calls) == {k: v * (2 if with_cp else 1) for k, v in in_forward.items()}
        gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
        results.append((loss.detach(), gradients))
    (loss, gradients), (loss_cp, gradients_cp) = results
    torch.testing.assert_close(loss_cp, loss)
    assert gradients
    assert gradients.keys() == gradients_cp.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradients_cp[key], gradient, rtol=1e-4, atol=1e-7, msg=key)


def sam_checkpoint(path, *, change=lambda state: None):
    """What a SAM file holds of the parts we use, and some that we do not."""
    encoder = PromptEncoder(32, (64, 64), (1024, 1024), 8)
    transformer = TwoWayTransformer(2, 32, 2, 64)
    state = {f'prompt_encoder.{k}': v for k, v in encoder.state_dict().items()}
    state |= {f'mask_decoder.transformer.{k}': v for k, v in transformer.state_dict().items()}
    state['image_encoder.pos_embed'] = torch.randn(3)
    state['mask_decoder.iou_token.weight'] = torch.randn(3)
    change(state)
    torch.save(state, path)
    return state


def test_every_block_has_its_own_copy_of_sam(tmp_path):
    state = sam_checkpoint(tmp_path / 'sam.pth')
    neck = build(num_blocks=3, sam_pretrained=str(tmp_path / 'sam.pth'))
    assert not neck.blocks[0].sam_block.state_dict().keys().isdisjoint({'layers.0.norm1.weight'})
    neck.init_weights()
    checked = 0
    for block in neck.blocks:
        for key, value in block.sam_block.layers.state_dict().items():
            assert value.equal(state[f'mask_decoder.transformer.layers.{key}']), key
            checked += 1
    for key, value in neck.prompt_encoder.encoder.state_dict().items():
        assert value.equal(state[f'prompt_encoder.{key}']), key
    assert checked > 100
    addresses = [p.data_ptr() for b in neck.blocks for p in b.parameters()]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda s: s.pop('mask_decoder.transformer.layers.1.norm2.weight'),
            r'1 missing \(mask_decoder.transformer.layers.1.norm2.weight\)',
        ),
        (lambda s: s.pop('prompt_encoder.no_mask_embed.weight'), 'no_mask_embed'),
        (
            lambda s: s.update({'mask_decoder.transformer.layers.2.x': torch.ones(1)}),
            'layers.2.x',
        ),
        (
            lambda s: s.update({'prompt_encoder.no_mask_embed.weight': torch.ones(1, 9)}),
            r'no_mask_embed.weight is \(1, 9\) instead of \(1, 32\)',
        ),
    ],
    ids=['missing in a layer', 'missing in the prompts', 'unexpected', 'misshapen'],
)
def test_unfit_sam_weights(tmp_path, change, message):
    sam_checkpoint(tmp_path / 'sam.pth', change=change)
    neck = build(sam_pretrained=str(tmp_path / 'sam.pth'))
    with pytest.raises(ESCNetError, match=message):
        neck.init_weights()
