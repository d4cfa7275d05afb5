"""tools/infer.py and tools/test.py --benchmarks killed at random moments, and run again."""

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image
from tool_processes import environment, tool_server

from mmseg_escnet.toyworld.scenes import scene

CONFIG = str(ROOT / 'configs/toyworld/escnet_toy.py')


def start(folder: Path, *arguments: object) -> int:
    job = dict(stdout=f'{folder}/said.log', stderr=f'{folder}/said.log', environment=environment())
    (pid,) = tool_server().start([ROOT / arguments[0], *arguments[1:]], [job], folder)
    return pid


def finish(folder: Path, *arguments: object) -> float:
    """Run to the end.

    Returns:
        Seconds.
    """
    begin = time.monotonic()
    start(folder, *arguments)
    assert tool_server().end(300) == [0], (folder / 'said.log').read_text()[-2000:]
    return time.monotonic() - begin


def kill_at_random(folder: Path, times: int, seconds: float, look, *arguments: object) -> int:
    """Start again and again, kill at a random moment, and look at what is there then.

    Returns:
        How often it was killed in the middle.
    """
    chance, kills = random.Random(0), 0
    for _ in range(times):
        pid = start(folder, *arguments)
        try:
            (status,) = tool_server().end(chance.uniform(0.05, 0.6) * seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):  # it may end at this very moment
                os.killpg(pid, signal.SIGKILL)
            (status,) = tool_server().end()
        assert status in (0, -signal.SIGKILL), (folder / 'said.log').read_text()[-2000:]
        kills += status == -signal.SIGKILL
        look()
    return kills


def files(folder: Path) -> dict[str, bytes]:
    """What is visible: a file that is being written has another name."""
    found = (path for path in folder.rglob('*') if path.is_file())
    shown = (path for path in found if not path.name.startswith('.'))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in shown}


def test_infer(tmp_path):
    """Every file is whole at any moment, and in the end all are those of an uninterrupted run."""
    photos = tmp_path / 'photos'
    photos.mkdir()
    for number in range(15):
        Image.fromarray(scene(1, number, 320)[0]).save(photos / f'{number}.png')
    command = ('tools/infer.py', 'photos', '--classes', 'red circle, water', '--scores')
    seconds = finish(tmp_path, *command, '--out-dir', 'expected')
    expected = files(tmp_path / 'expected')
    assert len(expected) >= 45
    killed = (*command, '--out-dir', 'out')

    def look():
        for name, content in files(tmp_path / 'out').items():
            assert content == expected[name], name

    assert kill_at_random(tmp_path, 5, seconds, look, *killed) >= 1
    finish(tmp_path, *killed)
    assert files(tmp_path / 'out') == expected
    assert not list((tmp_path / 'out').rglob('*.part'))


@pytest.fixture
def place(tmp_path) -> Path:
    """A checkpoint, and PASCAL VOC with six pictures."""
    init_default_scope('mmseg')
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({'model.neck.num_blocks': 1})
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'iter_8.pth')
    voc = tmp_path / 'data/VOCdevkit/VOC2012'
    folders = ('JPEGImages', 'SegmentationClass20', 'SegmentationClass20b')
    for folder in (*folders, 'ImageSets/Segmentation20'):
        (voc / folder).mkdir(parents=True)
    ids = np.random.default_rng(0).integers(0, 20, (60, 96), np.uint8)
    for number in range(6):
        Image.fromarray(scene(1, number)[0][:60]).save(voc / f'JPEGImages/{number}.jpg')
        for folder in folders[1:]:
            Image.fromarray(ids).save(voc / folder / f'{number}.png')
    names = ''.join(f'{number}\n' for number in range(6))
    (voc / 'ImageSets/Segmentation20/val.txt').write_text(names)
    return tmp_path


def test_benchmarks(place):
    """Label maps are whole at any moment, and figures and label maps the same in the end."""
    # pictures are resized to 640x640: a patch of 32 pixels makes that 20x20
    small = ('model.neck.num_blocks=1', 'model.backbone.stride=32', 'test_dataloader.num_workers=0')
    small += ('test_dataloader.persistent_workers=False',)

    def command(work_dir: str) -> tuple:
        options = ('--work-dir', work_dir, '--out', f'{work_dir}/out', '--cfg-options', *small)
        return (
            'tools/test.py',
            CONFIG,
            'iter_8.pth',
            '--benchmarks',
            'PAS-20',
            'PAS-20b',
            *options,
        )

    seconds = finish(place, *command('expected'))
    expected = files(place / 'expected/out')
    assert len(expected) >= 12

    def look():
        for name, content in files(place / 'killed/out').items():
            assert content == expected[name], name

    assert kill_at_random(place, 5, seconds, look, *command('killed')) >= 1
    finish(place, *command('killed'))
    assert files(place / 'killed/out') == expected
    figures = [
        Config.fromfile(place / work_dir / 'benchmarks_iter_8.json').benchmarks
        for work_dir in ('expected', 'killed')
    ]
    for key in ('PAS-20', 'PAS-20b'):
        assert figures[0][key].metrics == figures[1][key].metrics
