"""FSDP through MMEngine's FlexibleRunner, on the CPU."""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS

sys.path.insert(0, str(Path(__file__).parent))
from jobs import Jobs
from steps import FSDP, STEP_CONFIG, Trainer, assert_same, changes, weights

# what depends on all gradients, and what depends on the optimiser's state
OPTIONS = ['optim_wrapper.clip_grad.max_norm=0.1', 'optim_wrapper.optimizer.momentum=0.9']


@pytest.fixture(scope='module')
def trainer(tmp_path_factory):
    return Trainer(Jobs(tmp_path_factory.mktemp('logs')), tmp_path_factory.mktemp)


@pytest.fixture(scope='module')
def sharded(trainer) -> Path:
    """Work dir of a step of two processes and, resumed, one of four."""
    work_dir = trainer.train(2, *OPTIONS, *FSDP, 'train_cfg.max_iters=1')
    return trainer.train(4, *OPTIONS, *FSDP, resume=work_dir)


def test_same_steps_as_one_process(trainer, sharded):
    """Clipped by the norm of all gradients, and with momentum across the resumption."""
    alone = changes(trainer.train(1, *OPTIONS), 2)
    for found, expected in zip(changes(sharded, 2), alone, strict=True):
        assert_same(found, expected)


def test_checkpoint_loads_into_a_model_of_one_process(sharded):
    init_default_scope('mmseg')
    cfg = Config.fromfile(STEP_CONFIG)
    model = MODELS.build(cfg.model)
    path = sharded / 'iter_2.pth'
    load_checkpoint(model, str(path), strict=True)
    expected, found = weights(path), model.state_dict()
    assert {key for key, value in found.items() if value.is_floating_point()} == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)
