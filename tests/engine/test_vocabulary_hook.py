"""VocabularyHook in MMEngine's own runner."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from mmseg_escnet import ESCNetError
from mmseg_escnet.engine import OpenVocabTTAModel, VocabularyHook


class Words(Dataset):
    """Two samples with meta information."""

    def __init__(self, *classes, **meta):
        self.metainfo = dict(classes=classes, **meta) if classes else dict(meta)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return dict(inputs=torch.ones(1))


class Recorder(BaseModel):
    """Records its vocabulary at every call."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.words, self.palette, self.log = None, None, []

    def set_vocabulary(self, names, palette=None, phrases=None):
        self.words, self.palette, self.phrases = tuple(names), palette, phrases

    def forward(self, inputs, mode='tensor'):
        self.log.append((mode, self.words))
        return dict(loss=self.weight.sum()) if mode == 'loss' else [self.words]


class NoMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {}


def loader(*classes, **meta) -> DataLoader:
    return DataLoader(Words(*classes, **meta), batch_size=1)


def runner(tmp_path, *, train=(), val=(), test=(), model=None) -> Runner:
    arguments = {}
    if train:
        arguments |= dict(
            train_dataloader=loader(*train),
            train_cfg=dict(by_epoch=False, max_iters=4, val_interval=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        )
    if val:
        arguments |= dict(val_dataloader=loader(*val), val_cfg={}, val_evaluator=[NoMetric()])
    if test:
        arguments |= dict(test_dataloader=loader(*test), test_cfg={}, test_evaluator=[NoMetric()])
    return Runner(
        model=model or Recorder(),
        work_dir=str(tmp_path),
        custom_hooks=[VocabularyHook()],
        default_hooks=dict(checkpoint=None, logger=None),
        log_level='ERROR',
        experiment_name=tmp_path.name,
        **arguments,
    )


def test_training_with_validation_in_between(tmp_path):
    model = Recorder()
    runner(tmp_path, train=('cat', 'dog'), val=('sky', 'tree', 'taxi'), model=model).train()
    training, validation = [('loss', ('cat', 'dog'))], [('predict', ('sky', 'tree', 'taxi'))]
    assert model.log == (2 * training + 2 * validation) * 2
    assert model.words == ('cat', 'dog')


def test_test(tmp_path):
    model = Recorder()
    runner(tmp_path, test=('sky',), model=model).test()
    assert model.log == [('predict', ('sky',))] * 2


def test_validation_alone(tmp_path):
    """There is no training to go back to."""
    model = Recorder()
    runner(tmp_path, val=('sky',), model=model).val()
    assert model.log == [('predict', ('sky',))] * 2


def test_validation_does_not_build_the_training(tmp_path):
    """The training data need not be there to validate."""
    work = runner(tmp_path, train=('cat',), val=('sky',))

    def fail(*args):
        raise AssertionError('the training loop was built')

    work.build_train_loop = fail
    work.val()


def test_palette_and_phrases_are_passed_on():
    model = Recorder()
    meta = dict(palette=[[1, 2, 3]], phrases={'cat': ['a small cat']})
    VocabularyHook().before_test(
        SimpleNamespace(model=model, test_dataloader=loader('cat', **meta))
    )
    assert (model.words, model.palette) == (('cat',), [[1, 2, 3]])
    assert model.phrases == {'cat': ['a small cat']}


def test_data_set_without_classes():
    fake = SimpleNamespace(model=Recorder(), test_dataloader=loader())
    with pytest.raises(ESCNetError, match='data set Words has no class names'):
        VocabularyHook().before_test(fake)


def test_model_inside_wrappers(monkeypatch):
    """Distributed, with test-time augmentation, and both."""

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    monkeypatch.setitem(MODEL_WRAPPERS.module_dict, 'TestWrapper', Wrapper)
    model = Recorder()
    for wrap in (Wrapper, OpenVocabTTAModel, lambda m: Wrapper(OpenVocabTTAModel(m))):
        model.words = None
        fake = SimpleNamespace(model=wrap(model), test_dataloader=loader('dog'))
        VocabularyHook().before_test(fake)
        assert model.words == ('dog',)
