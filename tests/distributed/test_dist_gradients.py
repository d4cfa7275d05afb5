"""Training in several processes takes the steps of one process with all the images."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from jobs import Jobs
from steps import FSDP, Trainer, assert_same, changes


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


def test_one_process_of_a_launcher(device, tmp_path, tmp_path_factory):
    """DDP and FSDP take the steps of a process without them: on a GPU by NCCL."""
    trainer = Trainer(Jobs(tmp_path, device), tmp_path_factory.mktemp)
    expected = changes(trainer.train(1), steps=1)[0]
    for options in ([], FSDP):
        assert_same(changes(trainer.train(1, *options, launcher='pytorch'), steps=1)[0], expected)
        assert f', on {device}' in trainer.server.said()
