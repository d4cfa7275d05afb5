"""What Ctrl-C promises is there."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmseg_escnet.engine import InterruptHook

OURS = dict(type='AtomicCheckpointHook', interval=1)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, inputs, mode='tensor'):
        if mode == 'predict':
            return [inputs]
        return dict(loss=(self.weight * inputs.sum()).sum())


class CtrlC(Hook):
    """Interrupts in an iteration, as often as told."""

    def __init__(self, iteration, times):
        self.iteration, self.times = iteration, times

    def before_val_iter(self, runner, *_, **__):
        if self.iteration == 'validation':
            work_dir = Path(runner.work_dir)
            shutil.copy(work_dir / f'iter_{runner.iter}.pth', work_dir / 'before.pth')
            os.kill(os.getpid(), signal.SIGINT)

    def before_train_iter(self, runner, *_, **__):
        if runner.iter + 1 == self.iteration:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


def interrupt(work_dir, *, by_epoch, checkpoint, iteration, times=1, counts=1, **more) -> str:
    """Interrupt a training of epochs of four iterations; what is said."""
    loop = dict(by_epoch=True, max_epochs=3) if by_epoch else dict(by_epoch=False, max_iters=12)
    loop = more.pop('train_cfg', loop)
    runner = Runner(
        model=Model(),
        work_dir=str(work_dir),
        train_dataloader=DataLoader([dict(inputs=torch.ones(2))] * 4),
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=counts),
        default_hooks=dict(checkpoint=checkpoint, ema=dict(type='EMAHook', momentum=0.5)),
        custom_hooks=[CtrlC(iteration, times)],
        default_scope='mmseg',
        experiment_name=f'{work_dir.name}-{os.urandom(4).hex()}',
        log_level='ERROR',
        **more,
    )
    hook = InterruptHook()
    runner.register_hook(hook)
    with pytest.raises(KeyboardInterrupt) as caught, hook:
        runner.train()
    return str(caught.value)


def saved(folder) -> list[str]:
    return sorted(path.name for path in folder.glob('*.pth'))


@pytest.mark.parametrize('times', [1, 2])
@pytest.mark.parametrize('by_epoch', [True, False])
def test_nothing_to_resume(tmp_path, by_epoch, times):
    """In the first epoch, and where nothing saves."""
    checkpoint = OURS | dict(by_epoch=True) if by_epoch else None
    said = interrupt(tmp_path, by_epoch=by_epoch, checkpoint=checkpoint, iteration=3, times=times)
    assert saved(tmp_path) == []
    assert said == 'no checkpoint was saved yet, so training has to start over'


@pytest.mark.parametrize('times', [1, 2])
def test_the_last_epoch_can_be_resumed(tmp_path, times):
    checkpoint = OURS | dict(by_epoch=True)
    said = interrupt(tmp_path, by_epoch=True, checkpoint=checkpoint, iteration=10, times=times)
    assert saved(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']
    assert said == f'epoch_2.pth is the latest checkpoint in {tmp_path}: add --resume to continue'


@pytest.mark.parametrize(('times', 'file'), [(1, 'iter_7.pth'), (2, 'iter_5.pth')])
def test_iterations(tmp_path, times, file):
    """A second Ctrl-C does not wait for the checkpoint of the first."""
    checkpoint = OURS | dict(by_epoch=False, interval=5)
    said = interrupt(tmp_path, by_epoch=False, checkpoint=checkpoint, iteration=7, times=times)
    assert file in saved(tmp_path)
    assert said.endswith('add --resume to continue')
    assert (file if times == 2 else 'iteration 7 is saved') in said


def test_between_two_updates(tmp_path):
    """No gradient is lost."""
    checkpoint = OURS | dict(by_epoch=False, interval=12)
    said = interrupt(tmp_path, by_epoch=False, checkpoint=checkpoint, iteration=5, counts=4)
    assert saved(tmp_path) == ['iter_8.pth']
    assert 'iteration 8 is saved' in said


def test_the_validation_of_averaged_weights(tmp_path):
    """They are in the model meanwhile, and are not saved in place of its own."""
    loop = dict(by_epoch=False, max_iters=12, val_interval=3)
    loader = DataLoader([dict(inputs=torch.ones(2))] * 2)
    validation = dict(val_cfg=dict(), val_evaluator=[], val_dataloader=loader)
    checkpoint = OURS | dict(by_epoch=False, interval=3)
    said = interrupt(
        tmp_path,
        by_epoch=False,
        checkpoint=checkpoint,
        iteration='validation',
        train_cfg=loop,
        **validation,
    )
    assert 'iteration 3 is saved' in said
    before, after = (
        torch.load(tmp_path / name, weights_only=True) for name in ('before.pth', 'iter_3.pth')
    )
    averaged, own = before['state_dict']['weight'], before['ema_state_dict']['module.weight']
    assert not torch.equal(averaged, own)
    for key in ('state_dict', 'ema_state_dict'):
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0)


def test_before_the_training_begins():
    with InterruptHook():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match='start over'):
            os.kill(os.getpid(), signal.SIGINT)
