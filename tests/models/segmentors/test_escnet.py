"""ESCNet: loss, inference in every mode, vocabulary and its cache, checkpoints."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import toy_model_cfg
from mmengine.runner import load_checkpoint
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_escnet import ESCNetError, Vocabulary
from mmseg_escnet.vocabulary import palette_of

WORDS = ['cat', 'dog', 'sky', 'wet road']
OTHER_WORDS = ['taxi', 'tree', 'building, edifice']
MODES = {
    'whole': dict(mode='whole'),
    'slide': dict(mode='slide', crop_size=(48, 48), stride=(32, 32)),
    'windows': dict(mode='windows', crop_size=(48, 48), stride=(32, 32)),
}
NO_SCORES = dict(keep_scores=False)


def build(words=WORDS, seed=0, test_cfg=None, **kwargs):
    """A toy ESC-Net in evaluation mode, at random such that its classes differ visibly."""
    torch.manual_seed(seed)
    test_cfg = dict(keep_scores=True) | (test_cfg or {})
    model = MODELS.build(toy_model_cfg(test_cfg=test_cfg, **kwargs))
    with torch.no_grad():  # at their usual size, random weights tell no two words apart
        for name, parameter in model.named_parameters():
            if '.text.transformer.' in name and parameter.dim() > 1:
                parameter.mul_(5)
            elif ('fusion' in name or 'decode_head' in name) and parameter.dim() > 1:
                parameter.mul_(2)
    for block in model.neck.blocks[:-1]:
        nn.init.normal_(block.correlation_update.weight, std=0.05)
    if words is not None:
        model.set_vocabulary(words)
    return model.eval()


def samples(size, batch=2, **meta):
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size) | meta
    return [SegDataSample(metainfo=meta) for _ in range(batch)]


def labelled(size=(64, 48), batch=2, classes=4):
    labels = torch.randint(0, classes, (batch, *size))
    labels[:, :5] = 255
    items = samples(size, batch)
    for item, label in zip(items, labels, strict=True):
        item.gt_sem_seg = PixelData(data=label[None])
    return torch.randn(batch, 3, *size), items, labels


# -- network -----------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(64, 64), (48, 96), (40, 71), (16, 16)])
@torch.no_grad()
def test_forward(size):
    model = build()
    logits = model(torch.randn(2, 3, *size))
    height, width = model.backbone.grid_size(*size)
    assert logits.shape == (2, 4, 4 * height, 4 * width)
    assert logits.isfinite().all()


@torch.no_grad()
def test_correlation_is_the_cosine():
    """C_0 by hand, image by image and class by class."""
    model = build()
    images = torch.randn(2, 3, 64, 48)
    seen = []
    model.neck.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    model(images)
    ((features, correlation, text, scale),) = seen
    assert correlation.shape == (2, 4, 4, 3)
    for b in range(2):
        for n in range(4):
            expected = F.cosine_similarity(
                features.image[b].permute(1, 2, 0), text[n].expand(4, 3, -1), dim=-1
            )
            torch.testing.assert_close(correlation[b, n], expected)
    assert text.equal(model.text_features())
    assert scale.item() == pytest.approx(1 / 0.07, rel=1e-4)


def test_loss():
    model = build().train()
    images, items, labels = labelled()
    losses = model.loss(images, items)
    logits = F.interpolate(model._forward(images), (64, 48), mode='bilinear')
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(losses['decode.loss_ce'], expected)
    assert 'decode.acc_seg' in losses
    assert losses['decode.loss_ce'].requires_grad


def test_a_batch_is_as_good_as_its_images():
    model = build()
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        together = model(images)
        for b in range(2):
            torch.testing.assert_close(
                model(images[b : b + 1])[0], together[b], rtol=1e-3, atol=1e-4
            )
        assert (together[0] - together[1]).abs().max() > 0.01


def test_train_step():
    """As MMEngine calls it, with the data preprocessor: the loss of one image goes down."""
    from mmengine.optim import OptimWrapper

    model = build().train()
    optimizer = OptimWrapper(torch.optim.Adam(model.parameters(), lr=1e-3))
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    _, items, _ = labelled((64, 64), batch=1)
    data = dict(inputs=[image], data_samples=items)
    losses = [model.train_step(data, optimizer)['loss'].item() for _ in range(8)]
    assert losses[-1] < losses[0]


@torch.no_grad()
def test_order_of_classes():
    model = build()
    images = torch.randn(1, 3, 64, 48)
    expected = model(images)
    order = [2, 0, 3, 1]
    model.set_vocabulary([WORDS[index] for index in order])
    torch.testing.assert_close(model(images), expected[:, order], rtol=1e-3, atol=1e-4)


# -- inference ---------------------------------------------------------------------------------


def assert_result(sample, scores):
    """``seg_logits`` are the scores (N, H, W) and ``pred_sem_seg`` their best class."""
    torch.testing.assert_close(sample.seg_logits.data, scores, rtol=1e-3, atol=1e-4)
    best = sample.pred_sem_seg.data
    assert best.shape == (1, *scores.shape[1:])
    assert best.dtype == torch.int64
    assert best[0].equal(sample.seg_logits.data.argmax(0))


def slow_windows(model, image, mode, window=48, stride=32):
    """Window by window; with mode 'windows' after a softmax, and with a global view."""

    def scores(view):
        logits = F.interpolate(model(view[None]), view.shape[1:], mode='bilinear')[0]
        return logits.softmax(0) if mode == 'windows' else logits

    _, height, width = image.shape
    total, count = torch.zeros(len(model.vocabulary), height, width), torch.zeros(height, width)
    tops = sorted({min(t, max(height - window, 0)) for t in range(0, height, stride)})
    lefts = sorted({min(v, max(width - window, 0)) for v in range(0, width, stride)})
    for top in tops:
        for left in lefts:
            crop = image[:, top : top + window, left : left + window]
            total[:, top : top + window, left : left + window] += scores(crop)
            count[top : top + window, left : left + window] += 1
    if mode == 'slide':
        return total / count
    view = scores(F.interpolate(image[None], (window, window), mode='bilinear')[0])
    view = F.interpolate(view[None], (height, width), mode='bilinear')[0]
    return (total / count + view) / 2


@pytest.mark.parametrize('size', [(64, 64), (64, 96), (32, 40)], ids=str)
@pytest.mark.parametrize('mode', MODES)
@torch.no_grad()
def test_predict(mode, size):
    """Two different images; larger than a window, non-square, smaller than a window."""
    model = build(test_cfg=MODES[mode])
    images = torch.randn(2, 3, *size)
    results = model.predict(images, samples(size))
    assert len(results) == 2
    for image, result in zip(images, results, strict=True):
        if mode == 'whole':
            expected = F.interpolate(model(image[None]), size, mode='bilinear')[0]
        else:
            expected = slow_windows(model, image, mode)
        assert_result(result, expected)


@pytest.mark.parametrize('mode', MODES)
@torch.no_grad()
def test_scores_are_kept_only_if_wanted(mode):
    """Label maps do not depend on it; what MMSegmentation calls returns all scores anyway."""
    images, items = torch.randn(2, 3, 64, 96), samples((64, 96))
    keeping, model = build(test_cfg=MODES[mode]), build(test_cfg=MODES[mode] | NO_SCORES)
    expected = keeping.predict(images, samples((64, 96)))
    for result, kept in zip(model.predict(images, items), expected, strict=True):
        assert 'seg_logits' not in result
        assert result.pred_sem_seg.data.equal(kept.pred_sem_seg.data)
        assert result.pred_sem_seg.num_classes == 4
    scores = model.inference(images, [item.metainfo for item in items])
    torch.testing.assert_close(scores, torch.stack([kept.seg_logits.data for kept in expected]))
    for result, kept in zip(model.postprocess_result(scores, items), expected, strict=True):
        assert result.pred_sem_seg.data.equal(kept.pred_sem_seg.data)


@torch.no_grad()
def test_aligned_corners_of_the_decode_head():
    """They hold for the logits and for the result."""
    head = toy_model_cfg()['decode_head'] | dict(align_corners=True)
    model, image = build(decode_head=head), torch.randn(1, 3, 64, 48)
    (result,) = model.predict(image, samples((64, 48), 1, ori_shape=(90, 110)))
    expected = model(image)
    for size in ((64, 48), (90, 110)):
        expected = F.interpolate(expected, size, mode='bilinear', align_corners=True)
    assert_result(result, expected[0])


@torch.no_grad()
def test_options_of_windows():
    image = torch.randn(1, 3, 64, 80)
    one = build(test_cfg=MODES['windows'])
    several = build(test_cfg=MODES['windows'] | dict(window_batch_size=3))
    without = build(test_cfg=MODES['windows'] | dict(global_view=False))
    batches = []
    several.backbone.register_forward_pre_hook(lambda _, x: batches.append(len(x[0])))
    expected = one.predict(image)[0].seg_logits.data
    torch.testing.assert_close(
        several.predict(image)[0].seg_logits.data, expected, rtol=1e-3, atol=1e-5
    )
    assert batches == [3, 1, 1]  # 2 x 2 windows, the global view
    assert (without.predict(image)[0].seg_logits.data - expected).abs().max() > 1e-3


@torch.no_grad()
def test_padding_flip_and_size_are_undone():
    """Scores are cropped, flipped back and resized, in this order, for each image as it needs."""
    model = build()
    images = torch.randn(3, 3, 64, 80)
    metas = [
        dict(padding_size=[3, 5, 2, 7], ori_shape=(110, 144)),  # left, right, top, bottom
        dict(img_padding_size=[0, 16, 0, 0], flip=True, flip_direction='horizontal'),
        dict(flip=True, flip_direction='vertical', ori_shape=(32, 40)),
    ]
    items = [samples((64, 80), 1, **meta)[0] for meta in metas]
    raw = [result.seg_logits.data for result in model.predict(images)]
    results = model.predict(images, items)

    expected = raw[0][None, :, 2:57, 3:75]
    expected = F.interpolate(expected, (110, 144), mode='bilinear')[0]
    assert_result(results[0], expected)
    expected = raw[1][None, :, :, :64].flip(3)
    assert_result(results[1], F.interpolate(expected, (64, 80), mode='bilinear')[0])
    expected = F.interpolate(raw[2][None].flip(2), (32, 40), mode='bilinear')[0]
    assert_result(results[2], expected)


@torch.no_grad()
def test_padding_by_the_preprocessor_is_undone():
    """test_step from raw bytes: padded to 64 x 64 as the toy config says, and cut again."""
    cfg = toy_model_cfg()
    cfg['data_preprocessor'] |= dict(test_cfg=dict(size=(64, 64)))
    model = build(data_preprocessor=cfg['data_preprocessor'])
    image = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8)
    (result,) = model.test_step(dict(inputs=[image], data_samples=samples((40, 56), 1)))
    assert result.seg_logits.data.shape == (4, 40, 56)
    preprocessor = model.data_preprocessor
    normalised = (image[[2, 1, 0]].float() - preprocessor.mean) / preprocessor.std
    padded = F.pad(normalised, (0, 8, 0, 24))
    expected = F.interpolate(model(padded[None]), (64, 64), mode='bilinear')[0, :, :40, :56]
    assert_result(result, expected)


@pytest.mark.parametrize('mode', MODES)
@torch.no_grad()
def test_one_word(mode):
    """A single word is a class like any other: it is everywhere."""
    model = build(['cat'], test_cfg=MODES[mode])
    (result,) = model.predict(torch.randn(1, 3, 64, 64), samples((64, 64), 1))
    assert result.seg_logits.data.shape == (1, 64, 64)
    assert not result.pred_sem_seg.data.any()
    assert result.pred_sem_seg.data.dtype == torch.int64
    if mode == 'whole':
        assert len(result.seg_logits.data.unique()) > 10  # no sigmoid, no threshold


@pytest.mark.parametrize('seed', [0, 5])
@torch.no_grad()
def test_bfloat16_autocast(seed):
    """Measured over 8 seeds: logits 0.6 to 1.6 % off, probabilities by 0.002 to 0.005."""
    model = build(seed=seed, test_cfg=MODES['windows'])
    image = torch.randn(1, 3, 64, 64)
    logits, scores = model(image), model.predict(image)[0].seg_logits.data
    with torch.autocast('cpu', dtype=torch.bfloat16):
        low_logits, low_scores = model(image), model.predict(image)[0].seg_logits.data
    assert low_logits.dtype == torch.bfloat16
    assert 0 < (low_logits - logits).norm() / logits.norm() < 0.05
    assert low_scores.dtype == torch.float32  # the softmax and the averaging
    assert (low_scores - scores).abs().max() < 0.015
    torch.testing.assert_close(low_scores.sum(0), torch.ones(64, 64))


@torch.no_grad()
def test_autocast_of_the_test_cfg():
    """It does what autocast around the call does, and nothing without it."""
    model = build(test_cfg=dict(mode='whole'))
    model.set_vocabulary(['cat', 'dog', 'sky'])
    images = torch.randn(1, 3, 64, 64)
    plain = model.inference(images, [{}])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        expected = model.inference(images, [{}])
    model.test_cfg.autocast = 'bfloat16'
    found = model.inference(images, [{}])
    assert found.dtype == torch.float32
    assert found.equal(expected)
    assert not found.equal(plain)


def test_training_under_bfloat16_autocast():
    """The loss is that of float32 within 0.1 % (measured: 0.005 %), the gradients are finite."""
    model = build().train()
    images, items, _ = labelled()
    loss = model.loss(images, items)['decode.loss_ce']
    with torch.autocast('cpu', dtype=torch.bfloat16):
        low_loss = model.loss(images, items)['decode.loss_ce']
    assert low_loss.dtype == torch.float32
    torch.testing.assert_close(low_loss, loss, rtol=1e-3, atol=0)
    low_loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert len(gradients) > 100
    assert all(gradient.isfinite().all() for gradient in gradients)


# -- vocabulary --------------------------------------------------------------------------------


def test_without_vocabulary():
    model = build(words=None)
    assert model.dataset_meta is None
    with pytest.raises(ESCNetError, match='no vocabulary yet'):
        model(torch.randn(1, 3, 64, 64))


def test_everything_follows_the_vocabulary():
    model = build()
    for words in (WORDS, OTHER_WORDS, ['cat']):
        model.set_vocabulary(words)
        assert model.vocabulary.names == tuple(words)
        for part in (model, model.decode_head):
            assert part.num_classes == part.out_channels == len(words)
        assert model.dataset_meta == dict(classes=tuple(words), palette=palette_of(words))
    model.set_vocabulary(['a', 'b'], [[1, 2, 3], [4, 5, 6]])
    assert model.dataset_meta['palette'] == [[1, 2, 3], [4, 5, 6]]
    vocabulary = Vocabulary.create(['x', 'y', 'z'])
    model.set_vocabulary(vocabulary)
    assert model.vocabulary is vocabulary


def test_setting_dataset_meta_sets_the_vocabulary():
    model = build()
    model.dataset_meta = dict(classes=('a', 'b'), palette=[[1, 2, 3], [4, 5, 6]], other=1)
    assert model.vocabulary.names == ('a', 'b')
    assert model.vocabulary.palette == ((1, 2, 3), (4, 5, 6))
    model.dataset_meta = dict(classes=['c'])
    assert model.num_classes == 1


@pytest.mark.parametrize('words', [[], ['cat', 'cat'], 'cat', ['word ' * 40]])
def test_a_refused_vocabulary_changes_nothing(words):
    model = build()
    with pytest.raises(ESCNetError):
        model.set_vocabulary(words)
    assert model.vocabulary.names == tuple(WORDS)
    assert model.num_classes == model.decode_head.num_classes == 4


@torch.no_grad()
def test_switching_the_vocabulary_there_and_back():
    model = build()
    image = torch.randn(1, 3, 64, 64)
    first = model(image)
    model.set_vocabulary(OTHER_WORDS)
    assert model(image).equal(build(OTHER_WORDS)(image))
    model.set_vocabulary(WORDS)
    assert model(image).equal(first)
    assert first.equal(build()(image))


# -- cache of the text features ----------------------------------------------------------------


def count_encodings(model) -> list:
    """A list that grows by one, the number of phrases, whenever the text tower is run."""
    calls, encode = [], model.text_encoder.encode

    def watched(clip, phrases, **kwargs):
        calls.append(len(phrases))
        return encode(clip, phrases, **kwargs)

    model.text_encoder.encode = watched
    return calls


def fresh(model, **kwargs) -> torch.Tensor:
    """Text features of a model that never had a cache."""
    clone = build(model.vocabulary, seed=7, **kwargs)
    clone.load_state_dict(model.state_dict())
    clone.text_encoder.templates = model.text_encoder.templates
    clone.text_encoder.synonyms = model.text_encoder.synonyms
    return clone.text_features()


@torch.no_grad()
def test_text_is_encoded_once():
    model = build(test_cfg=MODES['windows'])
    calls = count_encodings(model)
    for _ in range(2):
        model.predict(torch.randn(1, 3, 64, 64))
    assert len(calls) == 1
    model.set_vocabulary(list(WORDS), [[0, 0, 0]] * 4)  # same words, other colours
    model.text_features()
    assert len(calls) == 1


def change_weights_in_place(model):
    model.backbone.clip.text.text_projection.mul_(1.3).add_(0.1)


def load_other_weights(model):
    model.load_state_dict(build(seed=3).state_dict())


def load_other_checkpoint(model):
    from mmengine.runner.checkpoint import load_state_dict

    load_state_dict(model, build(seed=3).state_dict())


def swap_averaged_weights(model):
    """As MMEngine's EMAHook does before validation: no version of a tensor counts it."""
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data + 0.1 * torch.randn_like(parameter))


def new_parameter(model):
    tower = model.backbone.clip.text
    tower.text_projection = nn.Parameter(tower.text_projection + 0.1)


def new_storage(model):
    projection = model.backbone.clip.text.text_projection
    projection.data = projection.data + 0.1  # no version counts this


def other_activation(model):
    from mmseg_escnet.models.clip_weights import set_activation

    model.backbone.quick_gelu.fill_(True)
    set_activation(model.backbone.clip, True)


def other_templates(model):
    model.text_encoder.templates = ('a drawing of a {}', 'many {}')


def all_synonyms(model):
    model.text_encoder.synonyms = 'mean'


@pytest.mark.parametrize(
    'change',
    [
        lambda model: model.set_vocabulary([*WORDS[1:], 'building, edifice']),
        lambda model: model.set_vocabulary(WORDS[::-1] + ['building, edifice']),
        other_templates,
        all_synonyms,
        change_weights_in_place,
        load_other_weights,
        load_other_checkpoint,
        swap_averaged_weights,
        new_parameter,
        new_storage,
        other_activation,
        lambda model: None,
    ],
    ids=[
        'vocabulary',
        'order',
        'templates',
        'synonyms',
        'in place',
        'load_state_dict',
        'load_checkpoint',
        'EMA',
        'new parameter',
        'new storage',
        'activation',
        'nothing',
    ],
)
@torch.no_grad()
def test_the_cache_follows(change):
    words = [*WORDS, 'building, edifice']
    model = build(words)
    before = model.text_features()
    torch.testing.assert_close(before, fresh(model))
    change(model)
    after = model.text_features()
    torch.testing.assert_close(after, fresh(model))
    nothing = getattr(change, '__name__', '') == '<lambda>' and model.vocabulary.names == tuple(
        words
    )
    assert nothing == (before.shape == after.shape and before.equal(after))


@torch.no_grad()
def test_nothing_of_other_weights_is_kept():
    model = build()
    calls = count_encodings(model)
    for words in (WORDS, OTHER_WORDS):
        model.set_vocabulary(words)
        model.text_features()
    change_weights_in_place(model)
    assert len(calls) == 2
    for words in (WORDS, OTHER_WORDS):
        model.set_vocabulary(words)
        torch.testing.assert_close(model.text_features(), fresh(model))
    assert len(calls) == 4
    assert len(model._text_cache._embeddings) == len({*WORDS, *OTHER_WORDS})


@torch.no_grad()
def test_text_is_in_full_precision_under_autocast():
    """Every pixel depends on it, and the cache then serves both."""
    model = build()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features = model.text_features()
    assert features.equal(build().text_features())


@torch.no_grad()
def test_a_copy_has_its_own_cache():
    model = build()
    before = model.text_features()
    twin = copy.deepcopy(model)
    change_weights_in_place(twin)
    assert not twin.text_features().equal(before)
    assert model.text_features().equal(before)


def test_training_encodes_the_text_with_a_gradient():
    model = build().train()
    calls = count_encodings(model)
    for _ in range(2):
        features = model.text_features()
        assert features.requires_grad
    assert len(calls) == 2
    with torch.no_grad():
        assert not model.text_features().requires_grad
    assert model.text_features().requires_grad  # what was cached without is not taken


def test_a_frozen_text_tower_is_encoded_once_in_training():
    cfg = toy_model_cfg()['backbone'] | dict(trainable='none')
    model = build(backbone=cfg).train()
    calls = count_encodings(model)
    assert not model.text_features().requires_grad
    assert model.text_features() is model.text_features()
    assert len(calls) == 1
    images, items, _ = labelled()
    model.loss(images, items)['decode.loss_ce'].backward()


def test_cached_under_inference_mode_and_used_with_a_gradient():
    """A gradient with respect to the image, after a prediction under ``inference_mode``."""
    cfg = toy_model_cfg()['backbone'] | dict(trainable='none')
    model = build(backbone=cfg)
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        model(image)
    image.requires_grad_()
    model(image).sum().backward()
    assert image.grad.abs().sum() > 0


# -- checkpoints -------------------------------------------------------------------------------


def lose(state):
    state.pop('neck.blocks.0.fusion.correlation_embed.weight')


def rename(state):
    state['decode_head.conv.bias'] = state.pop('decode_head.predict_logits.bias')


def reshape(state):
    state['decode_head.predict_logits.bias'] = torch.zeros(5)


def add(state):
    state['decode_head.conv_seg.weight'] = torch.zeros(5)


CHANGES = {
    lose: r'1 missing \(neck.blocks.0.fusion.correlation_embed.weight\)',
    rename: r'1 missing \(decode_head.predict_logits.bias\); 1 unexpected \(decode_head.conv.bias',
    reshape: r'1 of another shape \(decode_head.predict_logits.bias is \(5,\) instead of \(1,\)\)',
    add: r'1 unexpected \(decode_head.conv_seg.weight\)',
}


@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize('strict', [True, False])
def test_unfit_checkpoint(change, strict, tmp_path):
    """Never a warning, also where MMEngine only warns, and the weights stay as they were."""
    model = build()
    state = build(seed=5).state_dict()
    change(state)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ESCNetError, match=CHANGES[change]):
        model.load_state_dict(state, strict=strict)
    torch.save(dict(state_dict=state), tmp_path / 'checkpoint.pth')
    with pytest.raises(ESCNetError, match=CHANGES[change]):
        load_checkpoint(model, str(tmp_path / 'checkpoint.pth'), strict=strict)
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('strict', [True, False])
def test_checkpoints_of_version_0_1_are_refused_by_name(strict, tmp_path):
    model = build()
    state = model.state_dict()
    key = next(key for key in state if '.fusion.swin.' in key)
    state[key.replace('.swin.', '.window_attention.')] = state.pop(key)
    torch.save(dict(state_dict=state), tmp_path / 'old.pth')
    with pytest.raises(ESCNetError, match=r'was made by mmseg_escnet 0\.1, .* or train again'):
        load_checkpoint(model, str(tmp_path / 'old.pth'), map_location='cpu', strict=strict)


def test_checkpoint_inside_a_wrapper():
    """Behind a prefix, as distributed and averaged models have it."""
    from mmengine.runner.checkpoint import load_state_dict

    wrapper = nn.ModuleDict(dict(module=build(), beside=nn.Linear(2, 2)))
    other = nn.ModuleDict(dict(module=build(seed=5), beside=nn.Linear(2, 2)))
    load_state_dict(wrapper, other.state_dict(), strict=True)
    wrapper.load_state_dict(other.state_dict())
    assert wrapper['module'].text_features().equal(other['module'].text_features())
    state = other.state_dict()
    del state['module.decode_head.predict_logits.bias']
    with pytest.raises(ESCNetError, match=r'module\.decode_head\.predict_logits\.bias'):
        wrapper.load_state_dict(state, strict=False)


@torch.no_grad()
def test_checkpoint_round_trip(tmp_path):
    model = build(seed=5)
    torch.save(dict(state_dict=model.state_dict(), meta=dict()), tmp_path / 'checkpoint.pth')
    other = build()
    image = torch.randn(1, 3, 64, 64)
    assert not other(image).equal(model(image))
    load_checkpoint(other, str(tmp_path / 'checkpoint.pth'))
    assert other(image).equal(model(image))


@pytest.mark.parametrize('mode', ['whole', 'windows'])
@pytest.mark.parametrize('size', [(1, 1), (5, 400)])
@torch.no_grad()
def test_images_of_any_size(mode, size):
    model = build(test_cfg=dict(mode=mode, crop_size=(64, 64), stride=(48, 48)))
    (result,) = model.predict(torch.randn(1, 3, *size))
    assert result.pred_sem_seg.data.shape == (1, *size)
    assert result.seg_logits.data.isfinite().all()


@torch.no_grad()
def test_first_correlation_is_in_full_precision_under_autocast():
    """A step of bfloat16, times the logit scale, would move pixels over PPG's threshold."""
    model = build(num_blocks=1)  # its C_T is C_0
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features = model.extract_feat(torch.randn(1, 3, 64, 64))
    assert features.correlation_logits.dtype == torch.float32
