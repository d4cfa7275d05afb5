"""The metric in several real processes gives the figures of one process, image for image."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(Path(__file__).parent))
from metric_worker import CASES, COUNTS, SAMPLERS, run

TIMEOUT_SECONDS = 300


def start(rank: int, world_size: int, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, Path(__file__).parent / 'metric_worker.py', str(rank), str(world_size)]
        + [folder],
        env=os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope='module')
def alone() -> dict[int, dict]:
    """The figures of one process by number of images."""
    return {count: run('as it is', count, 1) for count in COUNTS}


@pytest.fixture(scope='module', params=[2, 3], ids=lambda world_size: f'{world_size} processes')
def together(request, tmp_path_factory) -> tuple[list[dict], Path]:
    """What every process found, and their folder."""
    folder = tmp_path_factory.mktemp('processes')
    workers = [start(rank, request.param, folder) for rank in range(request.param)]
    for worker in workers:
        output, _ = worker.communicate(timeout=TIMEOUT_SECONDS)
        assert worker.returncode == 0, output[-2000:]
    return [json.loads((folder / f'{r}.json').read_text()) for r in range(request.param)], folder


def test_the_figures_tell_the_images_apart(alone):
    """Otherwise an image too many or too few would not show."""
    assert len({figures['fwIoU'] for figures in alone.values()}) == len(COUNTS)


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_same_figures_as_one_process(together, alone, sampler):
    """Numbers of images that the processes can share equally and that they cannot."""
    found, _ = together
    for process in found:
        figures = [case for case in process['figures'] if case[0] == sampler]
        assert len(figures) == len(CASES) // len(SAMPLERS)
        for _, count, batch_size, metrics in figures:
            assert metrics == alone[count], f'{count} images, {batch_size} at a time'
            assert {'mIoU', 'mIoU_gt', 'fwIoU', 'aAcc', 'hIoU'} <= set(metrics)


def test_all_processes_refuse_images_left_out(together):
    found, _ = together
    images = 2 * len(found) + 1
    for process in found:
        assert f'The data set has {images} images, but {images - 1} were' in process['refused']


def test_predictions_of_all_processes(together):
    _, folder = together
    names = {
        path.relative_to(folder / 'predictions').as_posix()
        for path in (folder / 'predictions').rglob('*')
        if path.is_file()
    }
    assert names == {'names.json', '0/0.png', '0/1.png', '0/2.png', '1/0.png', '1/1.png'}
