"""Training in several processes takes the steps of one process with all the images."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from jobs import Jobs
from steps import Trainer, assert_same, changes


@pytest.fixture(scope='module')
def trainer(tmp_path_factory):
    return Trainer(Jobs(tmp_path_factory.mktemp('logs')), tmp_path_factory.mktemp)


@pytest.fixture(scope='module')
def alone(trainer):
    return changes(trainer.train(1), steps=1)[0]


@pytest.mark.parametrize(
    ('size', 'options'),
    [
        (2, ['model.neck.with_cp=True', 'model.class_chunk=16']),  # the real way
        (4, []),
    ],
    ids=['2 processes, checkpointing, chunks', '4 processes'],
)
def test_same_gradients_as_one_process(trainer, alone, size, options):
    """Each process has other images, and the labelled pixels of each of them count once."""
    # a second step follows: before it, DDP complains of trained parameters that got no gradient
    assert_same(changes(trainer.train(size, *options), steps=1)[0], alone)
