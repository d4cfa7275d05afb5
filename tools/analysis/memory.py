"""Whether memory stays flat: resident size in an evaluation, and in inferences with changing words.

    python tools/analysis/memory.py                     # 2000 images, 10000 inferences
    python tools/analysis/memory.py --images 200 --inferences 500

With the trained miniature model, on drawn scenes. Every inference has an image of another size and
words that were never asked for before, so that each cache there is fills up. Writes OUT.json and
OUT.png, and prints how much the second half of each has added.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mmseg_escnet.cli import run_tool

SAMPLES = 200  # of the resident size
MIB = 1 << 20
MAKE_SCENES = Path(__file__).resolve().parents[1] / 'toyworld' / 'make_scenes.py'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=int, default=2000, help='of the evaluation (%(default)s)')
    parser.add_argument('--inferences', type=int, default=10000, help='(%(default)s)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/memory'))
    return parser.parse_args()


class ResidentSize:
    """The resident size of this process in MiB, at evenly spaced steps.

    Args:
        steps: How many steps there will be.
    """

    def __init__(self, steps: int) -> None:
        self.every = max(1, steps // SAMPLES)
        self.steps: list[int] = []
        self.mebibytes: list[float] = []

    def sample(self, step: int) -> None:
        """Look, if it is time."""
        if step % self.every == 0:
            pages = int(Path('/proc/self/statm').read_text().split()[1])
            self.steps.append(step)
            self.mebibytes.append(pages * os.sysconf('SC_PAGE_SIZE') / MIB)

    @property
    def added(self) -> float:
        """MiB that the second half of the steps has added."""
        return self.mebibytes[-1] - self.mebibytes[len(self.mebibytes) // 2]


def evaluate(num_images: int) -> ResidentSize:
    """MMEngine's test loop."""
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    from mmseg_escnet.toyworld.model import toy_model

    size = ResidentSize(num_images)

    class Watch(Hook):
        def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            size.sample(batch_idx)

    cfg, checkpoint = toy_model()
    with TemporaryDirectory() as folder:
        draw_scenes = [sys.executable, MAKE_SCENES, '--out', folder, '--train', '1']
        subprocess.run([*draw_scenes, '--val', str(num_images)], check=True)
        cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
        cfg.test_dataloader.dataset.data_root = folder
        cfg.work_dir, cfg.load_from = folder, str(checkpoint)
        for name in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
            cfg.pop(name)
        runner = Runner.from_cfg(cfg)
        runner.register_hook(Watch())
        runner.test()
    return size


def infer(number: int) -> ResidentSize:
    """Inferences, each of an image of another size into words that are new."""
    import numpy as np
    from tqdm import tqdm

    from mmseg_escnet.apis import OpenVocabInferencer
    from mmseg_escnet.toyworld.model import toy_model
    from mmseg_escnet.toyworld.scenes import scene

    inferencer = OpenVocabInferencer(*toy_model(), device='cpu')
    chance = np.random.default_rng(0)
    size = ResidentSize(number)
    for step in tqdm(range(number), unit='inference'):
        height, width = chance.integers(64, 160, 2)
        image = scene(1, step % 50, 160)[0][:height, :width]
        words = [f'thing {step} {i}' for i in range(chance.integers(2, 12))]
        inferencer(image, words).labels  # noqa: B018  computed when it is asked for
        size.sample(step)
    return size


def draw(path: Path, measured: dict[str, ResidentSize]) -> None:
    """A panel for each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout='constrained')
    for axes, (name, size) in zip(figure.subplots(1, len(measured)), measured.items(), strict=True):
        axes.plot(size.steps, size.mebibytes)
        top = 1.2 * max(size.mebibytes)
        axes.set(title=name, ylabel='resident size (MiB)', ylim=(0, top), xlabel='images')
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    args = parse_args()
    with TemporaryDirectory() as cache:  # the user's own is not filled with words of no use
        os.environ['MMSEG_ESCNET_CACHE'] = cache
        measured = {
            f'{args.inferences} inferences, new words each': infer(args.inferences),
            f'evaluation of {args.images} images': evaluate(args.images),
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    content = {
        name: dict(steps=size.steps, mebibytes=size.mebibytes) for name, size in measured.items()
    }
    args.out.with_suffix('.json').write_text(json.dumps(content))
    draw(args.out.with_suffix('.png'), measured)
    for name, size in measured.items():
        print(
            f'{name}: {size.mebibytes[0]:.0f} MiB at first, {size.mebibytes[-1]:.0f} MiB at last, '
            f'{size.added:+.1f} MiB in the second half'
        )


if __name__ == '__main__':
    run_tool(main)
