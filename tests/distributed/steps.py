"""Trainings of few steps on four images, in any number of processes."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from conftest import ROOT
from jobs import TOY_CHECKPOINT, Jobs, scenes
from mmengine.config import Config
from PIL import Image

STEP_CONFIG = Path(__file__).parent / 'step_config.py'
_LEAF = Config.fromfile(ROOT / 'configs/escnet/escnet_vitl14_fsdp_coco-stuff.py')
FSDP = [f'runner_type={_LEAF.runner_type}']  # options
FSDP += [f'strategy.{key}={value}' for key, value in _LEAF.strategy.items()]
IMAGES = 4
_IGNORED = 255

Weights = dict[str, torch.Tensor]


class Trainer:
    """Trains with tools/train.py.

    The labelled pixels of the four images differ in number: all, some and none of them.

    Args:
        server: Starts the processes.
        make_folder: pytest's ``tmp_path_factory.mktemp``.
    """

    def __init__(self, server: Jobs, make_folder: Callable[[str], Path]) -> None:
        self.server, self.make_folder = server, make_folder
        self.data = make_folder('scenes')
        scenes(self.data, IMAGES)
        for number, rows in ((1, 60), (2, 96)):
            path = self.data / f'annotations/train/{number}.png'
            with Image.open(path) as image:
                label = np.array(image)
            label[:rows] = _IGNORED
            Image.fromarray(label).save(path)

    def arguments(self, size: int, work_dir: Path, *options: str, resume: bool) -> list[str]:
        """What follows the config and, in the shell script, the number of processes."""
        options += (f'train_dataloader.dataset.data_root={self.data}/',)
        options = (f'train_dataloader.batch_size={IMAGES // size}', *options)
        how = ['--resume'] if resume else []
        if not resume:
            options += (f'load_from={TOY_CHECKPOINT}',)
        return ['--work-dir', str(work_dir), *how, '--cfg-options', *options]

    def train(
        self,
        size: int,
        *options: str,
        resume: Path | None = None,
        launcher: str | None = None,
    ) -> Path:
        """Train to the end.

        Args:
            size: Number of processes.
            options: Of the config.
            resume: The work dir of a training that goes on.
            launcher: See :meth:`.Jobs.start`.

        Returns:
            The work dir.
        """
        work_dir = resume or self.make_folder('work_dir')
        arguments = self.arguments(size, work_dir, *options, resume=resume is not None)
        self.server.run(size, 'tools/train.py', STEP_CONFIG, *arguments, launcher=launcher)
        return work_dir


def weights(path: Path) -> Weights:
    """The real numbers of a checkpoint."""
    content = torch.load(path, map_location='cpu', weights_only=True)['state_dict']
    return {key: value.to_dense() for key, value in content.items() if value.is_floating_point()}


def changes(work_dir: Path, steps: int) -> list[Weights]:
    """What each step subtracted from the weights."""
    states = [TOY_CHECKPOINT, *(work_dir / f'iter_{step + 1}.pth' for step in range(steps))]
    states = [*map(weights, states)]
    return [{key: before[key] - after[key] for key in before} for before, after in pairwise(states)]


def assert_same(found: Weights, expected: Weights) -> None:
    """To the precision of weights, from which the changes were read."""
    assert found.keys() == expected.keys()
    differences = {key: (found[key] - expected[key]).norm() for key in expected}
    sizes = {key: value.norm() for key, value in expected.items()}
    trained = sum(size > 1e-4 for size in sizes.values())
    # 78 of the toy model's 159; attention layers move by less in a step
    assert trained > 70, f'next to nothing was trained: {trained} tensors'
    for key, difference in differences.items():
        assert difference <= 5e-3 * sizes[key] + 1e-6, key
    whole, wrong = (torch.stack([*norms.values()]).norm() for norms in (sizes, differences))
    assert wrong <= 2e-4 * whole
