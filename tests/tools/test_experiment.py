"""What the demo and the study of the toy world share: trainings, weights, measurements."""

import importlib
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_escnet import ESCNetError
from mmseg_escnet.models.weights import read_state_dict
from mmseg_escnet.toyworld.vocabulary import (
    ALL_NAMES,
    SEEN_NAMES,
    UNSEEN_ATTRIBUTE_NAMES,
    UNSEEN_NAMES,
    vocabulary_of,
)

CONFIG = ROOT / 'configs/toyworld/escnet_toy.py'
TOKENS = 'backbone.clip.text.token_embedding.weight'


@pytest.fixture(scope='module')
def tools():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'path', [str(ROOT / 'tools/toyworld'), *sys.path])
        names = ('experiment', 'measure', 'make_scenes')
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture(scope='module')
def scenes(tools, tmp_path_factory):
    """Folder of two scenes to train on and three to measure on."""
    root = tmp_path_factory.mktemp('scenes')
    command = ['--out', str(root), '--train', '2', '--val', '3', '--workers', '1']
    assert tools.make_scenes.main(command) == 0
    return root


def config():
    """The toy config without the weights that it begins with."""
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.pretrained = cfg.model.neck.sam_pretrained = None
    return cfg


@pytest.fixture
def cfg(tools, scenes):
    init_default_scope('mmseg')
    cfg = config()
    tools.experiment.use_scenes(cfg, scenes)
    return cfg


@pytest.fixture
def dataset(tools, cfg):
    return tools.measure.build_dataset(cfg)


@pytest.fixture(scope='module')
def shared_model():
    torch.manual_seed(0)
    model = MODELS.build(config().model)
    with torch.no_grad():  # at their usual size, random weights tell no two words apart
        for name, parameter in model.backbone.clip.text.named_parameters():
            if 'transformer' in name and parameter.dim() > 1:
                parameter.mul_(5)
    return model.eval()


@pytest.fixture
def model(shared_model):
    shared_model.set_vocabulary(['something else'])
    return shared_model


def label_maps(dataset):
    return [np.asarray(Image.open(info['seg_map_path'])) for info in dataset]


def label_map(sample):
    return sample['data_samples'].gt_sem_seg.data[0].numpy()


# -- schedule ------------------------------------------------------------------------------------


def rates(cfg):
    """The learning rate at each iteration, as a share of the highest."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(scheduler), default_args=dict(optimizer=optimizer))
        for scheduler in cfg.param_scheduler
    ]
    found = []
    for _ in range(cfg.train_cfg.max_iters):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


@pytest.mark.parametrize('iterations', [2, 10, 39, 300, 1000])
def test_schedule_ends_at_the_last_iteration(tools, iterations):
    cfg = config()
    tools.experiment.shorten(cfg, iterations)
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == iterations
    *warm_ups, decay = cfg.param_scheduler
    assert [warm_up.end for warm_up in warm_ups] == [decay.begin] * (iterations >= 4)
    assert decay.begin <= 20
    assert decay.end == iterations
    found = rates(cfg)
    assert all(0 < rate <= 1 + 1e-9 for rate in found)
    assert found[: decay.begin] == sorted(found[: decay.begin])
    assert found[decay.begin :] == sorted(found[decay.begin :], reverse=True)
    # zero would be next: what a cosine has left one step before
    left = (1 - math.cos(math.pi / (iterations - decay.begin))) / 2
    assert found[-1] == pytest.approx(left * max(found), abs=1e-9)
    if iterations >= 300:
        assert found[-1] < 1e-4


@pytest.mark.parametrize('iterations', [1, 2, 3, 4, 10, 240])
def test_full_rate_is_reached(tools, iterations):
    cfg = config()
    tools.experiment.shorten(cfg, iterations)
    assert max(rates(cfg)) == pytest.approx(1.0)


def test_schedule_of_the_config_is_kept(tools):
    cfg, other = config(), config()
    tools.experiment.shorten(cfg, other.train_cfg.max_iters)
    assert cfg.param_scheduler == other.param_scheduler
    assert rates(cfg) == rates(other)


# -- scenes --------------------------------------------------------------------------------------


def test_scenes_of_both_kinds_are_used(cfg, scenes, tools):
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
    for phase in ('train', 'test'):
        assert cfg[f'{phase}_dataloader'].dataset.data_root == f'{scenes}/'
    assert len(tools.measure.build_dataset(cfg)) == 3
    large = tools.measure.build_dataset(cfg, vocabulary='large')
    assert large.metainfo['classes'] == vocabulary_of('large')
    assert cfg.test_dataloader.dataset.vocabulary == 'all'


def test_scenes_that_are_missing_are_drawn(tools, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(tools.make_scenes, 'main', lambda argv: calls.append(argv))
    tools.experiment.make_scenes_for(tmp_path, (7, 4))
    assert calls == [['--out', str(tmp_path), '--train', '7', '--val', '4']]
    monkeypatch.setattr(tools.make_scenes, 'main', lambda argv: 3)
    with pytest.raises(ESCNetError, match='Not all scenes could be written'):
        tools.experiment.make_scenes_for(tmp_path, (7, 4))


# -- weights -------------------------------------------------------------------------------------


@pytest.fixture
def few_tokens(model):
    """The model with embeddings of some tokens alone, as the miniature CLIP has them."""
    embedding = model.backbone.clip.text.token_embedding
    before = embedding.weight.detach().clone()
    with torch.no_grad():
        embedding.weight[torch.arange(len(before)) % 500 != 7] = 0
    yield model
    with torch.no_grad():
        embedding.weight.copy_(before)


def assert_written(model, expected):
    """The model has the weights, as far as half precision goes."""
    state = model.state_dict()
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        wanted = value.half().float() if value.is_floating_point() else value
        assert state[key].dtype == value.dtype, key
        assert torch.equal(state[key], wanted), key


def test_weights_are_written_and_read_back(tools, few_tokens, tmp_path):
    file = tmp_path / 'escnet.pth'
    expected = {key: value.clone() for key, value in few_tokens.state_dict().items()}
    tools.experiment.save_weights(few_tokens, file)
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_size < 6e6  # 12 MB more if all tokens were in it

    content = torch.load(file, weights_only=True)
    assert list(content) == ['state_dict', 'meta']
    assert content['meta'] == dict(dataset_meta=few_tokens.dataset_meta)  # for init_model
    stored = content['state_dict'][TOKENS]
    assert stored.layout == torch.sparse_coo
    assert stored.shape == expected[TOKENS].shape
    assert len(stored.coalesce().values()) == len(range(7, 49408, 500))
    layouts = {key for key, value in content['state_dict'].items() if value.is_sparse}
    assert layouts == {TOKENS}
    assert not any(value.requires_grad for value in content['state_dict'].values())

    state, file_format = read_state_dict(file)
    assert file_format == 'pickle'
    assert state.keys() == expected.keys()
    torch.manual_seed(1)
    back = MODELS.build(config().model)
    back.load_state_dict(state)
    assert_written(back, expected)
    for key, value in few_tokens.state_dict().items():  # which is as it was
        assert value.layout == torch.strided
        assert torch.equal(value, expected[key]), key


def test_written_weights_are_loaded_instead_of_training(tools, few_tokens, cfg, tmp_path):
    tools.experiment.save_weights(few_tokens, tmp_path / 'escnet.pth')
    model, untrained, logged = tools.experiment.train(cfg, str(tmp_path / 'escnet.pth'))
    assert logged == {}
    expected = few_tokens.state_dict()
    assert_written(model, expected)
    assert untrained is not model
    assert any(not torch.equal(v, expected[k]) for k, v in untrained.state_dict().items())


# -- control -------------------------------------------------------------------------------------


def test_words_without_masks_are_exchanged(tools):
    names = list(ALL_NAMES)
    result = tools.measure.permuted(ALL_NAMES)
    assert names == list(ALL_NAMES)
    assert len(result) == 72
    assert sorted(result) == sorted(names)
    moved = {name for name, other in zip(names, result, strict=True) if name != other}
    assert moved == {*UNSEEN_NAMES, *UNSEEN_ATTRIBUTE_NAMES}
    assert moved == set(names) - set(SEEN_NAMES)
    # a name of one kind stands for another one of its kind
    for group in (UNSEEN_NAMES, UNSEEN_ATTRIBUTE_NAMES):
        assert {result[names.index(name)] for name in group} == set(group)


def test_words_are_exchanged_in_any_order_and_choice(tools):
    for names in (ALL_NAMES[::-1], ALL_NAMES[::2], [*UNSEEN_NAMES[:3], 'giraffe', SEEN_NAMES[0]]):
        result = tools.measure.permuted(names)
        assert sorted(result) == sorted(names)
        for name, other in zip(names, result, strict=True):
            assert (name != other) == (name in UNSEEN_NAMES + UNSEEN_ATTRIBUTE_NAMES)
    assert tools.measure.permuted(SEEN_NAMES) == list(SEEN_NAMES)
    assert tools.measure.permuted([]) == []


# -- CLIP's raw read-out -------------------------------------------------------------------------


def upsampled(values, size):
    """Bilinear interpolation of a map (h, w), one axis after the other; flat beyond the ends."""
    for axis, length in enumerate(size):
        old = values.shape[axis]
        at = (np.arange(length) + 0.5) * old / length - 0.5
        values = np.apply_along_axis(
            lambda v, at=at: np.interp(at, np.arange(len(v)), v), axis, values
        )
    return values


@torch.no_grad()
def test_raw_readout_is_the_cosine_at_every_patch(tools, model):
    words = ['red circle', 'grass', 'blue star', 'wood', 'giraffe']
    model.set_vocabulary(words)
    images = torch.randn(2, 3, 96, 64)
    actual = tools.measure.raw_readout(model, images, [{}, {}])
    assert actual.shape == (2, 5, 96, 64)
    features = model.backbone(images).image.double().numpy()
    text = model.text_features().double().numpy()
    scale = math.exp(model.backbone.clip.logit_scale.item())
    for b in range(2):
        for n in range(5):
            cosines = np.zeros((12, 8))
            for i in range(12):
                for j in range(8):
                    patch = features[b, :, i, j]
                    lengths = np.linalg.norm(patch) * np.linalg.norm(text[n])
                    cosines[i, j] = patch @ text[n] / lengths
            expected = scale * upsampled(cosines, (96, 64))
            np.testing.assert_allclose(actual[b, n].numpy(), expected, atol=1e-3)
    assert actual.amax(1).std() > 0.01


@torch.no_grad()
def test_raw_readout_with_words_exchanged(tools, model):
    """The same read-out, with the classes in another order."""
    images = torch.randn(1, 3, 96, 96)
    model.set_vocabulary(ALL_NAMES)
    expected = tools.measure.raw_readout(model, images, [{}])
    words = tools.measure.permuted(ALL_NAMES)
    model.set_vocabulary(words)
    actual = tools.measure.raw_readout(model, images, [{}])
    order = [ALL_NAMES.index(word) for word in words]
    torch.testing.assert_close(actual, expected[:, order], rtol=1e-4, atol=1e-4)
    assert (actual - expected).abs().amax((0, 2, 3)).gt(1e-3).sum() == 30


# -- measurements --------------------------------------------------------------------------------


def truth(model, inputs, metas):
    """In place of a model's logits: what is in the label files."""
    maps = [np.asarray(Image.open(meta['seg_map_path'])) for meta in metas]
    return (
        torch.nn.functional.one_hot(torch.tensor(np.stack(maps)).long(), 72).movedim(-1, 1).float()
    )


def shifted(model, inputs, metas):
    """The truth, some pixels to the right."""
    return truth(model, inputs, metas).roll(9, dims=3)


def plain_iou(labels, predictions):
    """(72,) in percent, NaN for a class that does not occur."""
    result = np.full(72, np.nan)
    for class_id in range(72):
        pairs = [(a == class_id, b == class_id) for a, b in zip(labels, predictions, strict=True)]
        if any(there.any() for there, _ in pairs):
            both = sum((there & found).sum() for there, found in pairs)
            result[class_id] = 100 * both / sum((there | found).sum() for there, found in pairs)
    return result


def same(one, two):
    assert one.metrics == pytest.approx(two.metrics, nan_ok=True)
    np.testing.assert_array_equal(one.class_iou, two.class_iou)
    for first, second in zip(one.predictions, two.predictions, strict=True):
        assert np.array_equal(first, second)


def test_truth_is_worth_a_hundred(tools, model, dataset, cfg):
    found = tools.measure.measure(model, dataset, cfg.test_evaluator, predict=truth, keep=2)
    labels = [label_map(sample) for sample in dataset]
    assert len(labels) == 3
    present = np.bincount(np.concatenate(labels).ravel(), minlength=72) > 0
    assert 5 < present.sum() < 72
    assert np.array_equal(found.class_iou == 100, present)
    assert np.array_equal(np.isnan(found.class_iou), ~present)
    groups = ('seen_things', 'seen_stuff', 'unseen_combination', 'unseen_attribute')
    assert set(tools.measure.GROUPS) == set(groups)
    names = ('aAcc', 'mIoU_gt', *(f'mIoU_{group}' for group in groups))
    assert all(found.metrics[name] in (100, pytest.approx(math.nan, nan_ok=True)) for name in names)
    assert found.metrics['aAcc'] == found.metrics['mIoU_gt'] == 100
    assert len(found.predictions) == 2
    for prediction, label in zip(found.predictions, labels, strict=False):
        assert np.array_equal(prediction, label)


def test_figures_are_those_of_a_plain_count(tools, model, dataset, cfg):
    found = tools.measure.measure(model, dataset, cfg.test_evaluator, predict=shifted, keep=9)
    labels = [label_map(sample) for sample in dataset]
    expected = plain_iou(labels, [np.roll(label, 9, axis=1) for label in labels])
    assert 10 < np.nanmean(expected) < 90
    np.testing.assert_allclose(found.class_iou, expected)
    assert len(found.predictions) == 3
    assert found.metrics['mIoU_gt'] == pytest.approx(np.nanmean(expected), abs=0.01)
    for group, key in (('seen_things', 'seen_things'), ('unseen_attribute', 'unseen_attribute')):
        members = [ALL_NAMES.index(name) for name in vocabulary_of(key)]
        assert found.metrics[f'mIoU_{group}'] == pytest.approx(
            np.nanmean(expected[members]), abs=0.01
        )


def test_measuring_leaves_nothing_behind(tools, model, dataset, cfg):
    evaluator = cfg.test_evaluator.copy()
    weights = {key: value.clone() for key, value in model.state_dict().items()}

    def measure(**kwargs):
        return tools.measure.measure(model, dataset, cfg.test_evaluator, keep=3, **kwargs)

    first, shift = measure(predict=truth), measure(predict=shifted)
    own = measure()
    exchanged = measure(words=tools.measure.permuted(ALL_NAMES))
    assert shift.metrics['mIoU_gt'] < 90
    same(measure(predict=truth), first)
    same(measure(predict=shifted), shift)
    same(measure(), own)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(own.predictions, exchanged.predictions, strict=True)
    )
    assert cfg.test_evaluator == evaluator
    assert len(dataset) == 3
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key]), key
    assert all(parameter.grad is None for parameter in model.parameters())


def test_own_prediction_is_that_of_the_model(tools, model, dataset, cfg):
    found = tools.measure.measure(model, dataset, cfg.test_evaluator, keep=3)
    model.set_vocabulary(ALL_NAMES)
    with torch.no_grad():
        for prediction, sample in zip(found.predictions, dataset, strict=True):
            data = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
            (result,) = model.test_step(data)
            assert np.array_equal(prediction, result.pred_sem_seg.data[0].numpy())


def test_what_the_model_is_told(tools, model, dataset, cfg):
    told = []

    def predict(network, inputs, metas):
        assert network is model
        assert not network.training
        assert not torch.is_grad_enabled()
        assert inputs.shape == (1, 3, 96, 96)
        told.append(network.vocabulary.names)
        return truth(network, inputs, metas)

    words = tools.measure.permuted(ALL_NAMES)
    for given, expected in ((None, ALL_NAMES), (words, words)):
        told.clear()
        model.train()
        found = tools.measure.measure(
            model, dataset, cfg.test_evaluator, words=given, predict=predict
        )
        assert [list(names) for names in told] == 3 * [list(expected)]
        assert (
            found.metrics['mIoU_gt'] == 100
        )  # classes are what they are, whatever they are called
        assert found.predictions == []


# -- chance --------------------------------------------------------------------------------------


class Labels(list):
    """A data set of label maps alone."""

    def __init__(self, maps, num_classes):
        super().__init__(
            dict(data_samples=SegDataSample(gt_sem_seg=PixelData(data=torch.tensor(label)[None])))
            for label in maps
        )
        self.metainfo = dict(classes=tuple(map(str, range(num_classes))))


def test_chance_is_that_of_a_guesser(tools):
    rng = np.random.default_rng(0)
    maps = [
        rng.choice([0, 1, 2, 4, 255], p=shares, size=(1000, 1000))
        for shares in ([0.5, 0.3, 0.1, 0.02, 0.08], [0.7, 0, 0.05, 0, 0.25])
    ]
    actual = tools.measure.chance_iou(Labels(maps, 5))
    labels = np.stack(maps).ravel()
    labels = labels[labels != 255]
    guesses = rng.integers(5, size=labels.size)
    assert actual.shape == (5,)
    assert np.isnan(actual[3])
    for class_id in (0, 1, 2, 4):
        there, guessed = labels == class_id, guesses == class_id
        iou = 100 * (there & guessed).sum() / (there | guessed).sum()
        assert actual[class_id] == pytest.approx(iou, rel=0.05)


def test_chance_on_scenes(tools, dataset):
    actual = tools.measure.chance_iou(dataset)
    labels = np.concatenate([label_map(sample) for sample in dataset]).ravel()
    present = np.bincount(labels, minlength=72) > 0
    assert np.array_equal(np.isfinite(actual), present)
    rng, repeats = np.random.default_rng(0), 100
    both, either = np.zeros(72), np.zeros(72)
    for _ in range(repeats):
        guesses = rng.integers(72, size=labels.size)
        hit = np.bincount(labels[guesses == labels], minlength=72)
        both += hit
        either += np.bincount(labels, minlength=72) + np.bincount(guesses, minlength=72) - hit
    often = present & (both > 400)  # a deviation of at most 5 %
    assert often.sum() > 5
    np.testing.assert_allclose(actual[often], (100 * both / either)[often], rtol=0.2)
    assert abs(np.nanmean(actual) - np.mean((100 * both / either)[present])) < 0.05
