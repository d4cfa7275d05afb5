"""Trainings on the toy world, their weights, and measurements."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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
    """The toy config without pretrained weights."""
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.pretrained = cfg.model.neck.sam_pretrained = None
    return cfg


@pytest.fixture
def cfg(scenes):
    init_default_scope('mmseg')
    cfg = config()
    experiment.use_scenes(cfg, scenes)
    return cfg


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


# -- schedule and scenes -------------------------------------------------------------------------


def rates(cfg):
    """The learning rate at each iteration, relative to the highest."""
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


@pytest.mark.parametrize('iterations', [1, 3, 4, 39, 300])
def test_schedule_ends_at_the_last_iteration(iterations):
    cfg = config()
    experiment.shorten(cfg, iterations)
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == iterations
    *warm_ups, decay = cfg.param_scheduler
    assert [warm_up.end for warm_up in warm_ups] == [decay.begin] * (iterations >= 4)
    assert decay.begin <= 20
    found = rates(cfg)
    assert all(0 < rate <= 1 + 1e-9 for rate in found)
    assert max(found) == pytest.approx(1.0)
    assert found[: decay.begin] == sorted(found[: decay.begin])
    assert found[decay.begin :] == sorted(found[decay.begin :], reverse=True)
    # zero would be next: what a cosine has left one step before
    left = (1 - math.cos(math.pi / (iterations - decay.begin))) / 2
    assert found[-1] == pytest.approx(left * max(found), abs=1e-9)


def test_schedule_of_the_config_is_kept():
    cfg, other = config(), config()
    experiment.shorten(cfg, other.train_cfg.max_iters)
    assert cfg.param_scheduler == other.param_scheduler


def test_scenes_of_both_kinds_are_used(cfg, scenes):
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
    for phase in ('train', 'test'):
        assert cfg[f'{phase}_dataloader'].dataset.data_root == f'{scenes}/'
    assert len(experiment.build_dataset(cfg)) == 3
    large = experiment.build_dataset(cfg, vocabulary='large')
    assert large.metainfo['classes'] == vocabulary_of('large')
    assert cfg.test_dataloader.dataset.vocabulary == 'all'


# -- weights -------------------------------------------------------------------------------------


def test_weights_are_written_and_read_back(model, cfg, tmp_path):
    embedding = model.backbone.clip.text.token_embedding.weight
    before = embedding.detach().clone()
    file = tmp_path / 'escnet.pth'
    try:
        with torch.no_grad():  # few tokens have embeddings, as in the miniature CLIP
            embedding[torch.arange(len(before)) % 500 != 7] = 0
        expected = {key: value.clone() for key, value in model.state_dict().items()}
        experiment.save_weights(model, file)
        assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    finally:
        with torch.no_grad():
            embedding.copy_(before)
    assert file.stat().st_size < 6e6  # 12 MB more if all tokens were in it
    content = torch.load(file, weights_only=True)
    assert content['meta'] == dict(dataset_meta=dict(classes=model.vocabulary.names))
    assert {key for key, value in content['state_dict'].items() if value.is_sparse} == {TOKENS}

    trained, untrained, logged = experiment.train(cfg, str(file))  # instead of training
    assert logged == {}
    assert trained.vocabulary.names == model.vocabulary.names
    state = trained.state_dict()
    assert state.keys() == expected.keys()
    for key, value in expected.items():  # in half precision
        assert state[key].dtype == value.dtype, key
        half = value.half().float() if value.is_floating_point() else value
        assert torch.equal(state[key], half), key
    assert any(not torch.equal(v, expected[k]) for k, v in untrained.state_dict().items())


# -- control, raw read-out, chance ---------------------------------------------------------------


def test_words_without_masks_are_exchanged_within_their_group():
    names, result = list(ALL_NAMES), experiment.permuted(ALL_NAMES)
    assert sorted(result) == sorted(names)
    moved = {name for name, other in zip(names, result, strict=True) if name != other}
    assert moved == {*UNSEEN_NAMES, *UNSEEN_ATTRIBUTE_NAMES}
    for group in (UNSEEN_NAMES, UNSEEN_ATTRIBUTE_NAMES):
        assert {result[names.index(name)] for name in group} == set(group)


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
        true, guessed = labels == class_id, guesses == class_id
        iou = 100 * (true & guessed).sum() / (true | guessed).sum()
        assert actual[class_id] == pytest.approx(iou, rel=0.05)


# -- measurements --------------------------------------------------------------------------------


def truth(model, inputs, metas):
    """Logits of the ground truth, in place of a model's."""
    maps = np.stack([np.asarray(Image.open(meta['seg_map_path'])) for meta in metas])
    return F.one_hot(torch.tensor(maps).long(), 72).movedim(-1, 1).float()


def shifted(model, inputs, metas):
    """The ground truth, some pixels to the right."""
    return truth(model, inputs, metas).roll(9, dims=3)


def plain_iou(labels, predictions):
    """(72,) in percent, NaN for a class that does not occur."""
    result = np.full(72, np.nan)
    for class_id in range(72):
        true, found = labels == class_id, predictions == class_id
        if true.any():
            result[class_id] = 100 * (true & found).sum() / (true | found).sum()
    return result


def test_metrics_are_those_of_a_plain_count(model, cfg):
    dataset = experiment.build_dataset(cfg)
    found = experiment.measure(model, dataset, cfg.test_evaluator, predict=shifted, keep=9)
    labels = np.stack([item['data_samples'].gt_sem_seg.data[0].numpy() for item in dataset])
    expected = plain_iou(labels, np.roll(labels, 9, axis=2))
    assert 10 < np.nanmean(expected) < 90
    np.testing.assert_allclose(found.class_iou, expected)
    np.testing.assert_array_equal(found.predictions, np.roll(labels, 9, axis=2))
    assert found.metrics['mIoU_gt'] == pytest.approx(np.nanmean(expected), abs=0.01)
    for group in ('seen_things', 'unseen_attribute'):
        members = [ALL_NAMES.index(name) for name in vocabulary_of(group)]
        mean = np.nanmean(expected[members])
        assert found.metrics[f'mIoU_{group}'] == pytest.approx(mean, abs=0.01)


def test_measuring_depends_on_its_arguments_alone(model, cfg):
    dataset, evaluator = experiment.build_dataset(cfg), cfg.test_evaluator.copy()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    exchanged = experiment.permuted(ALL_NAMES)

    def predict(network, inputs, metas):
        assert (network, network.training, torch.is_grad_enabled()) == (model, False, False)
        assert inputs.shape == (1, 3, 96, 96)
        given.append(list(network.vocabulary.names))
        return truth(network, inputs, metas)

    def measure(**kwargs):
        return experiment.measure(model, dataset, cfg.test_evaluator, keep=3, **kwargs)

    own = measure()
    other = measure(words=exchanged)
    assert not np.array_equal(own.predictions, other.predictions)
    for words in (None, exchanged):  # classes keep their ids, whatever they are called
        given = []
        model.train()
        assert measure(words=words, predict=predict).metrics['mIoU_gt'] == 100
        assert given == 3 * [list(words or ALL_NAMES)]
    again = measure()
    assert again.metrics == pytest.approx(own.metrics, nan_ok=True)
    np.testing.assert_array_equal(again.predictions, own.predictions)
    assert cfg.test_evaluator == evaluator
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key]), key
