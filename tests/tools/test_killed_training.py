"""tools/train.py killed at any moment, interrupted, and on a disk that is full."""

import contextlib
import itertools
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tool_processes import environment, tool_server

from mmseg_escnet.toyworld.scenes import scene
from mmseg_escnet.toyworld.vocabulary import to_seen_ids

ITERATIONS = 6
KILLS = 20
CONFIG = 'configs/toyworld/escnet_toy.py'
OPTIONS = [
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'train_dataloader.batch_size=2',
    'val_dataloader.dataset.indices=2',
    'model.neck.num_blocks=1',
    'default_hooks.logger.interval=1',
    # a checkpoint in every iteration that replaces the only one: the worst case
    'default_hooks.checkpoint.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=1',
    f'train_cfg.max_iters={ITERATIONS}',
    'train_cfg.val_interval=3',
    'param_scheduler.1.end=6',
    'param_scheduler.1.T_max=4',
    'param_scheduler.0.end=2',
    'param_scheduler.1.begin=2',
]


class Trainer:
    """Starts tools/train.py, as often as one likes."""

    def __init__(self, options: list[str], log: Path) -> None:
        self.options, self.log = options, log

    def start(self, work_dir: Path, *options: str, largest_file: int | None = None) -> int:
        argv = ['tools/train.py', CONFIG, '--work-dir', str(work_dir), '--resume']
        argv += ['--cfg-options', *self.options, *options]
        self.log.write_text('')
        job = dict(stdout=str(self.log), stderr=str(self.log), environment=environment())
        (pid,) = tool_server().start(argv, [job])
        if largest_file:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest_file, largest_file))
        return pid

    def end(self) -> int:
        """Exit status, or the negative number of the signal that ended it."""
        return tool_server().end()[0]

    def train(self, work_dir: Path, *options: str) -> str:
        """Run to the end, and return what was said."""
        self.start(work_dir, *options)
        assert self.end() == 0, self.said()
        return self.log.read_text()

    def said(self) -> str:
        return self.log.read_text()[-3000:]


@pytest.fixture(scope='module')
def trainer(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes')
    for split, number in itertools.product(('train', 'val'), range(5)):
        image, label = scene(1, number)
        label = to_seen_ids(label) if split == 'train' else label
        for kind, content in (('images', image), ('annotations', label)):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(root / kind / split / f'{number}.png')
    roots = [f'{phase}_dataloader.dataset.data_root={root}/' for phase in ('train', 'val', 'test')]
    return Trainer([*roots, *OPTIONS], root / 'log.txt')


@pytest.fixture(scope='module')
def uninterrupted(trainer, tmp_path_factory) -> tuple[dict, float]:
    """What an uninterrupted run ends with, and how many seconds it takes."""
    trainer.train(tmp_path_factory.mktemp('first'))  # the first is slower: files are read
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    begin = time.monotonic()
    trainer.train(work_dir)
    seconds = time.monotonic() - begin
    return read(work_dir / f'iter_{ITERATIONS}.pth'), seconds


def read(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=True)


def assert_same(actual: dict, expected: dict) -> None:
    """Weights, and what the optimiser and the schedulers know."""
    assert actual['param_schedulers'] == expected['param_schedulers']
    for part in ('state_dict', 'optimizer'):
        torch.testing.assert_close(actual[part], expected[part], rtol=0, atol=0)


def half_written(work_dir: Path) -> list[Path]:
    return list(work_dir.glob('.*.part'))


def test_killed_at_any_moment(trainer, uninterrupted, tmp_path):
    """Of each kind of moment several; every chain of runs ends with the very same numbers."""
    expected, seconds = uninterrupted
    chance = random.Random(0)
    kills, in_the_middle_of_a_write, work_dir = 0, 0, tmp_path / '0'
    while kills < KILLS:
        # a third of them as soon as a checkpoint is being written
        pid = trainer.start(work_dir)
        if kills % 3 == 2:
            while not half_written(work_dir) and not finished(pid):
                time.sleep(0.0002)
        else:
            deadline = time.monotonic() + chance.uniform(0, seconds)
            while time.monotonic() < deadline and not finished(pid):
                time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        status = trainer.end()
        if status == -signal.SIGKILL:
            kills += 1
            in_the_middle_of_a_write += bool(half_written(work_dir))
            continue
        assert status == 0, trainer.said()
        assert_same(read(work_dir / f'iter_{ITERATIONS}.pth'), expected)
        assert not half_written(work_dir)
        shutil.rmtree(work_dir)
        work_dir = tmp_path / str(kills)
    assert in_the_middle_of_a_write >= 3
    trainer.train(work_dir)
    assert_same(read(work_dir / f'iter_{ITERATIONS}.pth'), expected)
    assert [path.name for path in work_dir.glob('*.pth')] == [f'iter_{ITERATIONS}.pth']


def finished(pid: int) -> bool:
    """Whether a process is gone, or waits to be asked for its status."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] == 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupted(trainer, uninterrupted, tmp_path, number):
    """Ctrl-C: the iteration is finished and saved, and how to go on is said."""
    pid = trainer.start(tmp_path, 'default_hooks.checkpoint.interval=100')
    while not any(path.stat().st_size for path in tmp_path.glob('*/vis_data/scalars.json')):
        assert not finished(pid), trainer.said()
        time.sleep(0.002)
    os.kill(pid, number)
    assert trainer.end() == 130, trainer.said()
    (saved,) = tmp_path.glob('*.pth')
    iterations = int(saved.stem.removeprefix('iter_'))
    assert 0 < iterations < ITERATIONS
    assert trainer.said().splitlines()[-1] == (
        f'interrupted: iteration {iterations} is saved in {tmp_path}: add --resume to continue'
    )
    assert f'resumed after step {iterations}: {saved}\n' in trainer.train(tmp_path)
    assert_same(read(tmp_path / f'iter_{ITERATIONS}.pth'), uninterrupted[0])


def test_interrupted_while_it_validates(trainer, uninterrupted, tmp_path):
    pid = trainer.start(
        tmp_path, 'default_hooks.checkpoint.interval=100', 'val_dataloader.dataset.indices=5'
    )
    while not any('Iter(train) [3/6]' in log.read_text() for log in tmp_path.glob('*/*.log')):
        assert not finished(pid), trainer.said()
        time.sleep(0.001)
    os.kill(pid, signal.SIGINT)
    assert trainer.end() == 130, trainer.said()
    assert 'iteration 3 is saved' in trainer.said()
    trainer.train(tmp_path)
    assert_same(read(tmp_path / f'iter_{ITERATIONS}.pth'), uninterrupted[0])


def test_goes_on_from_the_last_whole_checkpoint(trainer, uninterrupted, tmp_path):
    """Whatever happened to the newest files."""
    keep = 'default_hooks.checkpoint.max_keep_ckpts=9'
    trainer.train(tmp_path, keep)
    newest, before, whole = (tmp_path / f'iter_{ITERATIONS - i}.pth' for i in range(3))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1  # within the numbers of a tensor
    newest.write_bytes(content)
    before.write_bytes(before.read_bytes()[: len(content) // 2])
    output = trainer.train(tmp_path, keep)
    assert f'Skipped checkpoint: The weights file {newest}' in output
    assert f'resumed after step {ITERATIONS - 2}: {whole}\n' in output
    assert_same(read(newest), uninterrupted[0])


def test_a_full_disk(trainer, uninterrupted, tmp_path):
    """One sentence; the previous checkpoint is whole, and training goes on from it."""
    trainer.train(tmp_path, 'train_cfg.max_iters=2')
    (saved,) = tmp_path.glob('*.pth')
    content = saved.read_bytes()
    trainer.start(tmp_path, largest_file=len(content) // 2)
    assert trainer.end() == 2, trainer.said()
    sentence = trainer.said().splitlines()[-1]
    assert sentence.startswith(f'error: {tmp_path}/iter_3.pth cannot be written (File too large)')
    assert 'Traceback' not in trainer.said()
    assert list(tmp_path.glob('*.pth')) == [saved]
    assert not half_written(tmp_path)
    assert saved.read_bytes() == content
    trainer.train(tmp_path)
    assert_same(read(tmp_path / f'iter_{ITERATIONS}.pth'), uninterrupted[0])
