"""The whole evaluation in several processes gives what one process gives, image for image."""

import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(Path(__file__).parent))
from evaluation_worker import COUNTS
from jobs import TOY_CHECKPOINT, Jobs, scenes

WORKER = Path(__file__).parent / 'evaluation_worker.py'
TIMEOUT = 'env_cfg.dist_cfg.timeout=120'  # an error and no endless test
CONFIG = ROOT / 'configs/toyworld/escnet_toy.py'


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    return Jobs(tmp_path_factory.mktemp('logs'))


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """Folder of the scenes."""
    folder = tmp_path_factory.mktemp('scenes')
    scenes(folder, max(COUNTS))
    return folder


@pytest.fixture(scope='module')
def evaluate(server, data, tmp_path_factory):
    """A function that tests in some processes: folders of results by number of images."""
    options = [f'load_from={TOY_CHECKPOINT}', f'test_dataloader.dataset.data_root={data}/']
    options += ['test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False']
    options += [TIMEOUT]

    def run(size: int, **kwargs: str) -> Path:
        work_dir = tmp_path_factory.mktemp(f'{size} processes')
        arguments = [WORKER, CONFIG, '--work-dir', work_dir]
        options_given = ['--cfg-options', *options]
        server.run(size, *arguments, *options_given, **kwargs)
        return work_dir

    return run


@pytest.fixture(scope='module')
def alone(evaluate) -> Path:
    return evaluate(1)


def figures(work_dir: Path, count: int) -> list[dict[str, float]]:
    """What each process found."""
    return [json.loads(path.read_text()) for path in (work_dir / str(count)).glob('*.json')]


def files(folder: Path) -> dict[str, bytes]:
    """All there is, hidden remains of unfinished files too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_the_numbers_of_images_can_be_told_apart(alone):
    found = [tuple(figures(alone, count)[0].items()) for count in COUNTS]
    assert len({str(one) for one in found}) == len(COUNTS)
    names = {name for name, _ in found[0]}
    assert {'mIoU_gt', 'hIoU', 'mIoU_unseen_attribute', 'merged/mIoU_gt', 'merged/aAcc'} <= names


@pytest.mark.parametrize(('size', 'launcher'), [(2, 'slurm'), (4, 'pytorch')])
def test_same_figures_and_predictions_as_one_process(evaluate, alone, size, launcher):
    """Whether the processes can share the images equally or not, or there are too few of them."""
    together = evaluate(size, launcher=launcher)
    for count in COUNTS:
        (expected,) = figures(alone, count)
        found = figures(together, count)
        assert len(found) == size
        for of_process in found:
            # NaN, of a mean over no class, is no number that equals itself
            assert str(of_process) == str(expected), count
        predictions = files(together / f'{count}/predictions')
        assert predictions == files(alone / f'{count}/predictions')
        assert len(predictions) == count + 1, 'one an image, and names.json'


def test_validation_of_unequal_lengths(server, data, tmp_path):
    """Two batches in one process and one in the other, while both listen for Ctrl-C."""
    phases = [
        f'{phase}_dataloader.{key}={value}'
        for phase in ('train', 'val')
        for key, value in (
            ('num_workers', 0),
            ('persistent_workers', False),
            ('dataset.data_root', f'{data}/'),
        )
    ]
    options = ['val_dataloader.sampler.round_up=False', 'val_dataloader.dataset.indices=3']
    options += ['train_cfg.max_iters=1', 'train_cfg.val_interval=1', f'load_from={TOY_CHECKPOINT}']
    options += ['param_scheduler=None', 'optim_wrapper.optimizer.lr=0', *phases, TIMEOUT]
    found = []
    for size in (1, 2):
        work_dir = tmp_path / str(size)
        arguments = ['tools/train.py', CONFIG, '--work-dir', work_dir, '--cfg-options', *options]
        server.run(size, *arguments)
        (path,) = work_dir.glob('*/vis_data/scalars.json')
        last = json.loads(path.read_text().splitlines()[-1])
        found.append({key: value for key, value in last.items() if 'time' not in key})
    assert 'mIoU_gt' in found[0]
    assert found[1] == found[0]
