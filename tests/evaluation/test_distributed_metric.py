"""The metric in several processes gives the results of a single one."""

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
PROCESSES = 3


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


@pytest.fixture(scope='module')
def together(tmp_path_factory) -> list[dict]:
    """The results of each of three processes."""
    folder = tmp_path_factory.mktemp('processes')
    workers = [start(rank, PROCESSES, folder) for rank in range(PROCESSES)]
    for worker in workers:
        output, _ = worker.communicate(timeout=TIMEOUT_SECONDS)
        assert worker.returncode == 0, output[-2000:]
    return [json.loads((folder / f'{rank}.json').read_text()) for rank in range(PROCESSES)]


def test_the_figures_tell_the_images_apart(alone):
    """Otherwise an image too many or too few would not show."""
    assert len({figures['fwIoU'] for figures in alone.values()}) == len(COUNTS)


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_same_figures_as_one_process(together, alone, sampler):
    """Numbers of images that the processes can share equally and that they cannot."""
    for process in together:
        figures = [case for case in process['figures'] if case[0] == sampler]
        assert len(figures) == len(CASES) // len(SAMPLERS)
        for _, count, batch_size, metrics in figures:
            assert metrics == alone[count], f'{count} images, {batch_size} at a time'
            assert {'mIoU', 'mIoU_gt', 'fwIoU', 'aAcc', 'hIoU'} <= set(metrics)


def test_all_processes_refuse_images_left_out(together):
    images = 2 * PROCESSES + 1
    for process in together:
        assert f'The data set has {images} images, but {images - 1} were' in process['refused']
