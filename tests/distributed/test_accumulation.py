"""Accumulated gradients make the updates of the whole batch."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from jobs import Jobs
from steps import Trainer, weights

# what depends on all gradients, and what depends on the optimiser's state
OPTIONS = ['optim_wrapper.clip_grad.max_norm=0.1', 'optim_wrapper.optimizer.momentum=0.9']


def accumulating(counts: int, updates: int) -> list[str]:
    return [
        *OPTIONS,
        f'optim_wrapper.accumulative_counts={counts}',
        'train_dataloader.batch_size=1',
        f'train_cfg.max_iters={counts * updates}',
        f'default_hooks.checkpoint.interval={counts}',
    ]


@pytest.fixture(scope='module')
def trainer(tmp_path_factory):
    """Its images have unequal numbers of labelled pixels, until they are made equal."""
    return Trainer(Jobs(tmp_path_factory.mktemp('logs')), tmp_path_factory.mktemp)


@pytest.fixture(scope='module')
def unequal(trainer):
    """The largest difference of a weight, with images of unequal numbers of labelled pixels."""
    batch = trainer.train(1, *OPTIONS, 'train_cfg.max_iters=1') / 'iter_1.pth'
    parts = trainer.train(1, *accumulating(4, 1)) / 'iter_4.pth'
    return difference(batch, parts)


@pytest.fixture(scope='module')
def batch(trainer, unequal):
    """Work dir of two updates by all four images, which are labelled everywhere."""
    for path in (trainer.data / 'annotations/train').iterdir():
        with Image.open(path) as image:
            label = np.array(image)
        Image.fromarray(np.where(label == 255, 3, label)).save(path)
    return trainer.train(1, *OPTIONS)


def difference(first: Path, second: Path) -> float:
    pairs = zip(weights(first).values(), weights(second).values(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def test_one_process(trainer, batch):
    found = trainer.train(1, *accumulating(4, 2))
    assert difference(found / 'iter_4.pth', batch / 'iter_1.pth') < 1e-6
    assert difference(found / 'iter_8.pth', batch / 'iter_2.pth') < 1e-6
    assert difference(batch / 'iter_1.pth', batch / 'iter_2.pth') > 1e-3
    (log,) = found.glob('*/*.log')
    assert 'training: 8 steps of 1 images, an update after every 4 steps' in log.read_text()


def test_two_processes_and_a_resumption(trainer, batch):
    """DDP exchanges gradients in the second of two steps only."""
    work_dir = trainer.train(2, *accumulating(2, 1))
    trainer.train(2, *accumulating(2, 2), resume=work_dir)
    assert difference(work_dir / 'iter_4.pth', batch / 'iter_2.pth') < 1e-6


def test_the_mean_over_labelled_pixels_is_of_each_step(unequal):
    """docs/training.md says so: an image with few labelled pixels has the weight of any other."""
    print(unequal)
    assert unequal > 1e-4
