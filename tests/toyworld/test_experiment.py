"""Trainings on the toy world, their weights, and measurements."""

import math

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

from mmseg_escnet.toyworld import experiment
from mmseg_escnet.toyworld.drawing import draw_scenes
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
def scenes(tmp_path_factory):
    """Folder of two scenes to train on and three to measure on."""
    root = tmp_path_factory.mktemp('scenes')
    assert draw_scenes(root, train=2, val=3) == 5
    return root


def config():
    """The toy config without the weights that it begins with."""
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.pretrained = cfg.model.neck.sam_pretrained = None
    return cfg


@pytest.fixture
def cfg(scenes):
    init_default_scope('mmseg')
    cfg = config()
    experiment.use_scenes(cfg, scenes)
    return cfg


@pytest.fixture
def dataset(cfg):
    return experiment.build_dataset(cfg)


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


@pytest.mark.parametrize('iterations', [1, 2, 3, 4, 10, 39, 300])
def test_schedule_ends_at_the_last_iteration(iterations):
    cfg = config()
    experiment.shorten(cfg, iterations)
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == iterations
    *warm_ups, decay = cfg.param_scheduler
    assert [warm_up.end for warm_up in warm_ups] == [decay.begin] * (iterations >= 4)
    assert decay.begin <= 20
    assert decay.end == iterations
    found = rates(cfg)
    assert all(0 < rate <= 1 + 1e-9 for rate in found)
    assert max(found) == pytest.approx(1.0)
    assert found[: decay.begin] == sorted(found[: decay.begin])
    assert found[decay.begin :] == sorted(found[decay.begin :], reverse=True)
    # zero would be next: what a cosine has left one step before
    left = (1 - math.cos(math.pi / (iterations - decay.begin))) / 2
    assert found[-1] == pytest.approx(left * max(found), abs=1e-9)
    if iterations >= 300:
        assert found[-1] < 1e-4


def test_schedule_of_the_config_is_kept():
    cfg, other = config(), config()
    experiment.shorten(cfg, other.train_cfg.max_iters)
    assert cfg.param_scheduler == other.param_scheduler
    assert rates(cfg) == rates(other)


# -- scenes --------------------------------------------------------------------------------------


def test_scenes_of_both_kinds_are_used(cfg, scenes):
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
    for phase in ('train', 'test'):
        assert cfg[f'{phase}_dataloader'].dataset.data_root == f'{scenes}/'
    assert len(experiment.build_dataset(cfg)) == 3
    large = experiment.build_dataset(cfg, vocabulary='large')
    assert large.metainfo['classes'] == vocabulary_of('large')
    assert cfg.test_dataloader.dataset.vocabulary == 'all'


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


def test_weights_are_written_and_read_back(few_tokens, cfg, tmp_path):
    file = tmp_path / 'escnet.pth'
    expected = {key: value.clone() for key, value in few_tokens.state_dict().items()}
    experiment.save_weights(few_tokens, file)
    assert file.stat().st_size < 6e6  # 12 MB more if all tokens were in it
    content = torch.load(file, weights_only=True)
    assert content['meta'] == dict(dataset_meta=few_tokens.dataset_meta)  # for init_model
    assert {key for key, value in content['state_dict'].items() if value.is_sparse} == {TOKENS}
    for key, value in few_tokens.state_dict().items():  # which is as it was
        assert value.layout == torch.strided
        assert torch.equal(value, expected[key]), key

    model, untrained, logged = experiment.train(cfg, str(file))  # in place of training
    assert logged == {}
    assert_written(model, expected)
    assert any(not torch.equal(v, expected[k]) for k, v in untrained.state_dict().items())


# -- control -------------------------------------------------------------------------------------


def test_words_without_masks_are_exchanged():
    names = list(ALL_NAMES)
    result = experiment.permuted(ALL_NAMES)
    assert names == list(ALL_NAMES)
    assert len(result) == 72
    assert sorted(result) == sorted(names)
    moved = {name for name, other in zip(names, result, strict=True) if name != other}
    assert moved == {*UNSEEN_NAMES, *UNSEEN_ATTRIBUTE_NAMES}
    assert moved == set(names) - set(SEEN_NAMES)
    # a name of one kind stands for another one of its kind
    for group in (UNSEEN_NAMES, UNSEEN_ATTRIBUTE_NAMES):
        assert {result[names.index(name)] for name in group} == set(group)


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
def test_raw_readout_is_the_cosine_at_every_patch(model):
    words = ['red circle', 'grass', 'blue star', 'wood', 'giraffe']
    model.set_vocabulary(words)
    images = torch.randn(2, 3, 96, 64)
    actual = experiment.raw_readout(model, images, [{}, {}])
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


def test_figures_are_those_of_a_plain_count(model, dataset, cfg):
    found = experiment.measure(model, dataset, cfg.test_evaluator, predict=shifted, keep=9)
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


def test_measuring_leaves_nothing_behind(model, dataset, cfg):
    evaluator = cfg.test_evaluator.copy()
    weights = {key: value.clone() for key, value in model.state_dict().items()}

    def measure(**kwargs):
        return experiment.measure(model, dataset, cfg.test_evaluator, keep=3, **kwargs)

    first, shift = measure(predict=truth), measure(predict=shifted)
    own = measure()
    exchanged = measure(words=experiment.permuted(ALL_NAMES))
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


def test_what_the_model_gets(model, dataset, cfg):
    given = []

    def predict(network, inputs, metas):
        assert network is model
        assert not network.training
        assert not torch.is_grad_enabled()
        assert inputs.shape == (1, 3, 96, 96)
        given.append(network.vocabulary.names)
        return truth(network, inputs, metas)

    exchanged = experiment.permuted(ALL_NAMES)
    for words, expected in ((None, ALL_NAMES), (exchanged, exchanged)):
        given.clear()
        model.train()
        found = experiment.measure(model, dataset, cfg.test_evaluator, words=words, predict=predict)
        assert [list(names) for names in given] == 3 * [list(expected)]
        # classes are what they are, whatever they are called
        assert found.metrics['mIoU_gt'] == 100
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


def test_chance_is_that_of_a_guesser():
    rng = np.random.default_rng(0)
    maps = [
        rng.choice([0, 1, 2, 4, 255], p=shares, size=(1000, 1000))
        for shares in ([0.5, 0.3, 0.1, 0.02, 0.08], [0.7, 0, 0.05, 0, 0.25])
    ]
    actual = experiment.chance_iou(Labels(maps, 5))
    labels = np.stack(maps).ravel()
    labels = labels[labels != 255]
    guesses = rng.integers(5, size=labels.size)
    assert actual.shape == (5,)
    assert np.isnan(actual[3])
    for class_id in (0, 1, 2, 4):
        there, guessed = labels == class_id, guesses == class_id
        iou = 100 * (there & guessed).sum() / (there | guessed).sum()
        assert actual[class_id] == pytest.approx(iou, rel=0.05)
