"""Training with files that go bad and data loading processes that die, as a user meets it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image
from tool_processes import environment, run_tool

from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.toyworld.vocabulary import to_seen_ids

BROKEN = '3.png'


def draw(root: Path) -> Path:
    for kind in ('images', 'annotations'):
        for split in ('train', 'val'):
            (root / kind / split).mkdir(parents=True)
    for split in ('train', 'val'):
        for number in range(6):
            image, label = scene(1, number)
            Image.fromarray(image).save(root / 'images' / split / f'{number}.png')
            label = to_seen_ids(label) if split == 'train' else label
            Image.fromarray(label).save(root / 'annotations' / split / f'{number}.png')
    return root


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp('whole'))


@pytest.fixture(scope='module')
def broken(tmp_path_factory) -> Path:
    root = draw(tmp_path_factory.mktemp('broken'))
    image = root / 'images' / 'train' / BROKEN
    image.write_bytes(image.read_bytes()[:200])
    return root


def command(root: Path, work_dir: Path, *options: str, iterations: int = 6) -> list[str]:
    return [
        *('tools/train.py', 'configs/toyworld/escnet_toy.py'),
        *('--work-dir', str(work_dir), '--cfg-options'),
        *(f'{phase}_dataloader.dataset.data_root={root}/' for phase in ('train', 'val')),
        *('train_dataloader.num_workers=2', 'train_dataloader.batch_size=1'),
        *('val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False'),
        *('model.neck.num_blocks=1', 'default_hooks.logger.interval=1'),
        *(f'train_cfg.max_iters={iterations}', 'val_dataloader.dataset.indices=1'),
        *options,
    ]


def train(*arguments, **options) -> tuple[int, str, str]:
    done = run_tool(*command(*arguments, **options))
    last = done.stderr.strip().splitlines()[-1] if done.stderr else ''
    return done.returncode, done.stdout + done.stderr, last


def test_an_unreadable_image_ends_it_with_its_name(broken, tmp_path):
    status, output, last = train(broken, tmp_path)
    assert status == 2
    assert last.startswith(f'error: Image {broken}/images/train/{BROKEN} cannot be decoded')
    assert 'Traceback' not in output


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


def commands(pids: list[int]) -> list[int]:
    """Of these processes those that run the training, data loading workers."""
    return [pid for pid in pids if b'tools/train.py' in Path(f'/proc/{pid}/cmdline').read_bytes()]


@pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='needs /proc')
def test_a_dead_worker_is_one_sentence(whole, tmp_path):
    process = subprocess.Popen(
        [sys.executable, *command(whole, tmp_path, iterations=2000)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = iter(process.stdout.readline, '')
    assert any('first step' in line for line in log), process.stderr.read()[-2000:]
    workers = commands(children(process.pid))
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        process.stdout.readline()
    _, errors = process.communicate()
    assert process.returncode == 1
    # the other worker may lose its pipes after that, and say so
    before, found, sentence = errors.partition('error: DataLoader worker (pid')
    assert found, errors
    sentence = sentence.splitlines()[0]
    assert str(workers[0]) in sentence
    assert 'num_workers' in sentence
    assert 'Traceback' not in before
    assert errors.count('error: DataLoader worker') == 1


def test_runs_of_one_seed_with_workers_end_alike(whole, tmp_path):
    weights = []
    for seed in (3, 3, 4):
        work_dir = tmp_path / f'{len(weights)}'
        status, output, _ = train(whole, work_dir, f'randomness.seed={seed}', iterations=3)
        assert status == 0, output[-2000:]
        checkpoint = torch.load(work_dir / 'iter_3.pth', weights_only=True)
        weights.append(checkpoint['state_dict'])
    first, second, third = weights
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    assert not all(torch.equal(tensor, third[key]) for key, tensor in first.items())
