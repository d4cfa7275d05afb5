"""FiniteHook in MMEngine's own runner: a training that diverges, and one that only overflows."""

import os

import pytest
import torch
import torch.nn as nn
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmseg_escnet import ESCNetError

BAD = 3  # the iteration in which the gradient is not finite


class Explode(torch.autograd.Function):
    """The loss is finite, its gradient is not."""

    factor = float('inf')

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * Explode.factor


class Model(BaseModel):
    bad_loss = None

    def __init__(self):
        super().__init__()
        self.healthy = nn.Parameter(torch.ones(3))
        self.exploding = nn.Parameter(torch.ones(3))
        self.calls = 0

    def forward(self, inputs, mode='tensor'):
        self.calls += 1
        if self.calls == self.bad_loss:
            inputs = inputs * float('nan')
        weight = Explode.apply(self.exploding) if self.calls == BAD else self.exploding
        return dict(loss=(self.healthy.sum() + weight.sum()) * inputs.mean())


def train(work_dir, *, clip=True, skip=False, counts=1):
    optimizer = dict(type='SGD', lr=0.1)
    wrapper = dict(type='OptimWrapper', optimizer=optimizer, accumulative_counts=counts)
    if clip:
        wrapper['clip_grad'] = dict(max_norm=1.0)
    model = Model()
    checkpoint = dict(type='AtomicCheckpointHook', by_epoch=False, interval=1)
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=DataLoader([dict(inputs=torch.ones(2))] * 5),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=5),
        optim_wrapper=wrapper,
        default_hooks=dict(checkpoint=checkpoint),
        custom_hooks=[dict(type='FiniteHook')],
        default_scope='mmseg',
        experiment_name=f'{work_dir.name}-{os.urandom(4).hex()}',
        log_level='ERROR',
    )
    if skip:  # what a loss scaler does with an overflow, without a GPU
        runner.optim_wrapper = runner.build_optim_wrapper(wrapper)
        step = runner.optim_wrapper.optimizer.step

        def step_if_finite(*args, **kwargs):
            if all(p.grad.isfinite().all() for p in model.parameters()):
                step(*args, **kwargs)

        runner.optim_wrapper.optimizer.step = step_if_finite
    return runner


def saved(work_dir) -> list[str]:
    return sorted(path.name for path in work_dir.glob('*.pth'))


@pytest.mark.parametrize('factor', [float('inf'), float('-inf'), float('nan')])
def test_non_finite_weights_are_reported_and_not_saved(tmp_path, factor, monkeypatch):
    monkeypatch.setattr(Explode, 'factor', factor)
    runner = train(tmp_path)
    with pytest.raises(
        ESCNetError, match=r'The weights (healthy, )?exploding are not .*iteration 3:'
    ):
        runner.train()
    assert saved(tmp_path) == ['iter_1.pth', 'iter_2.pth']
    assert runner.iter == BAD - 1


def test_non_finite_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(Model, 'bad_loss', 2)
    with pytest.raises(ESCNetError, match=r'losses loss are not finite .*iteration 2:'):
        train(tmp_path, clip=False).train()
    assert saved(tmp_path) == ['iter_1.pth']


def test_without_clipping_weights_are_checked_when_saving(tmp_path):
    with pytest.raises(ESCNetError, match='The weights exploding are not finite'):
        train(tmp_path, clip=False).train()
    assert saved(tmp_path) == ['iter_1.pth', 'iter_2.pth']


@pytest.mark.parametrize('counts', [1, 3])
def test_a_step_that_the_scaler_skips_is_counted(tmp_path, counts):
    """Once, although its norm stays until the next update."""
    runner = train(tmp_path, skip=True, counts=counts)
    runner.train()
    (hook,) = (h for h in runner.hooks if type(h).__name__ == 'FiniteHook')
    assert hook.skipped_steps == 1
    assert saved(tmp_path)[-1] == 'iter_5.pth'
