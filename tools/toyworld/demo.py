"""The whole chain on the toy world: train ESC-Net on masks of some names, segment into all of them.

The miniature CLIP and SAM of data/toyworld are loaded, ESC-Net is trained on them with the same
runner, data sets, configs and metric as the full model, and compared with CLIP's raw read-out,
chance, and a control in which the words of the names without masks are exchanged. Writes
OUT/report.md, its pictures, and OUT/result.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image

from mmseg_escnet.cli import add_cfg_options, run_tool
from mmseg_escnet.config import read_config
from mmseg_escnet.datasets.parallel import default_workers
from mmseg_escnet.files import encode_png, write_file
from mmseg_escnet.tables import table
from mmseg_escnet.toyworld.drawing import draw_scenes
from mmseg_escnet.toyworld.vocabulary import SEEN_NAMES, THING_NAMES, vocabulary_of
from mmseg_escnet.version import __version__

ROOT = Path(__file__).resolve().parents[2]
PAGE = """# ESC-Net in the toy world

ESC-Net was trained on masks of 42 names and segments all 72. *Raw CLIP* takes the class of the
highest cosine similarity at every patch, without ESC-Net. With the *words exchanged*, each name
without masks gets the text of another one: a model that finds classes by their words must fail on
these. A random guess at every pixel reaches {chance:.1f} over all names. A star (\\*) marks names
without masks in training, which only their words can find.

{table}

{origin}

More figures are in [result.json](result.json).

## Scenes

![Images, ground truth and predictions](scenes.png)

## Class by class

![IoU of every class](classes.png)

## Block by block

For one thing in each scene: the correlation that each block reads, the pseudo prompts it derives,
and what the SAM block does to the features.

{blocks}
{training}
## What makes this easier than the real thing

- Scenes are clean drawings of a few things on one or two grounds, all at a similar scale.
- The captions of the miniature CLIP name everything visible, one thing at a time and without noise,
  and its pretraining included the dense read-out; the real CLIP had neither.
- CLIP has seen all 72 concepts in captioned pictures. "Unseen" means without masks.
- Things without masks do occur in the training images, as ignored pixels.
- Most names have two parts, colour and shape, which occur in many combinations.
"""
CURVES = """
## Training

![Training curves](curves.png)
"""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('--config', default=str(ROOT / 'configs/toyworld/escnet_toy.py'))
    add('--out', type=Path, default=Path('work_dirs/demo'))
    add(
        '--scenes', type=int, nargs=2, default=(3000, 100), help='train and val (default: 3000 100)'
    )
    add('--iterations', type=int, help='default: those of the config')
    add('--checkpoint', help='evaluate this checkpoint instead of training')
    add('--save', type=Path, help='file to save the trained weights to')
    add('--rows', type=int, default=5, help='scenes in the pictures (default: %(default)s)')
    add('--no-large', action='store_true', help='skip the large vocabulary')
    add_cfg_options(parser)
    return parser.parse_args()


def stage(number: int, what: str) -> None:
    """Say where the demo stands."""
    print(f'{number} of 4: {what}', flush=True)


def main() -> None:
    """Draw, train, measure, report."""
    args = parse_args()
    start = time.monotonic()

    import torch
    from mmengine.registry import init_default_scope

    from mmseg_escnet import components  # noqa: F401
    from mmseg_escnet.preflight import find_weights
    from mmseg_escnet.toyworld import experiment

    cfg = read_config(args.config, args.cfg_options)
    cfg.work_dir = str(args.out / 'run')
    if args.iterations is not None:
        experiment.shorten(cfg, args.iterations)
    init_default_scope('mmseg')
    find_weights(cfg.model)
    train, val = args.scenes
    stage(1, f'drawing {train} scenes to train on and {val} to measure')
    draw_scenes(args.out / 'scenes', train=train, val=val, workers=default_workers())
    experiment.use_scenes(cfg, args.out / 'scenes')
    if args.checkpoint is None:
        stage(2, f'training, {cfg.train_cfg.max_iters} steps')
    else:
        stage(2, f'loading {args.checkpoint} instead of training')
    model, clip, logged = experiment.train(cfg, args.checkpoint)
    if args.save is not None:
        experiment.save_weights(model, args.save)

    def measure(title, network, dataset, **options):
        return experiment.measure(
            network, dataset, cfg.test_evaluator, description=title, keep=args.rows, **options
        )

    stage(3, 'measuring')
    networks = {'ESC-Net': model, 'raw CLIP': clip}
    dataset = experiment.build_dataset(cfg)
    found = {title: measure(title, network, dataset) for title, network in networks.items()}
    words = experiment.permuted(dataset.metainfo['classes'])
    found['words exchanged'] = measure('words exchanged', model, dataset, words=words)
    large = {}
    if not args.no_large:
        more = experiment.build_dataset(cfg, vocabulary='large')
        count = len(more.metainfo['classes'])
        for title, network in networks.items():
            large[title] = measure(f'{title}, {count} words', network, more)
    seconds = time.monotonic() - start
    stage(4, 'drawing the pictures')
    origin = {
        'date': f'{datetime.now():%Y-%m-%d %H:%M}',
        'config': str(args.config),
        'settings': ', '.join(f'{k}={v}' for k, v in (args.cfg_options or {}).items()) or '-',
        'weights': args.checkpoint
        or f'trained for {cfg.train_cfg.max_iters} iterations of '
        f'{cfg.train_dataloader.batch_size} images',
        'scenes': f'{train} for training, {val} for evaluation',
        'time': f'{seconds:.0f} s in all',
        'versions': f'mmseg_escnet {__version__}, PyTorch {torch.__version__}, '
        f'Python {platform.python_version()}',
    }
    write_report(args.out, model, dataset, found, large, logged, origin)
    print(f'{seconds:.0f} s in all')


def marked(text: str, names: Sequence[str]) -> str:
    """The text, with a star if any of the names had no masks in training."""
    return text if set(names) <= set(SEEN_NAMES) else f'{text} *'


def result_rows(found, large, dataset) -> list[list]:
    """A row for each group of names: title, then the mIoU (%) of each method."""
    from mmseg_escnet.toyworld.experiment import GROUPS

    names = dataset.metainfo['classes']
    rows = []
    for group, title in GROUPS.items():
        members = vocabulary_of(group)
        values = [measured.metrics[f'mIoU_{group}'] for measured in found.values()]
        rows.append([f'{len(members)} names: {marked(title, members)}', *values])
    values = [measured.metrics['mIoU_gt'] for measured in found.values()]
    rows.append([f'all {len(names)} names', *values])
    if large:
        values = [large[title].metrics['mIoU_gt'] if title in large else None for title in found]
        title = f'the same {len(names)} among {len(vocabulary_of("large"))} words'
        rows.append([title, *values])
    return rows


def write_report(out: Path, model, dataset, found, large, logged, origin) -> None:
    """Print the table; write the page, its pictures, and the figures as JSON."""
    from mmseg_escnet.toyworld import figures
    from mmseg_escnet.toyworld.experiment import GROUPS, chance_iou
    from mmseg_escnet.visualization import save_figure

    def show(value: float | None) -> str:
        """One decimal; a dash if the scenes contain none of the names."""
        return '' if value is None else '-' if np.isnan(value) else f'{value:.1f}'

    rows = result_rows(found, large, dataset)
    text = table(
        ['mIoU (%) over', *found],
        [[title, *map(show, values)] for title, *values in rows],
        markdown=True,
        align='l' + 'r' * len(found),
    )
    chance = float(np.nanmean(chance_iou(dataset)))
    record = dict(
        metrics={title: measured.metrics for title, measured in found.items()},
        large={title: measured.metrics for title, measured in large.items()},
        chance=chance,
        origin=origin,
    )
    write_file(out / 'result.json', json.dumps(record, indent=1).encode())

    kept = {title: found[title] for title in ('raw CLIP', 'ESC-Net')}
    write_file(out / 'scenes.png', encode_png(draw_scenes_found(dataset, kept)))
    save_figure(
        figures.classes_figure(
            names=[marked(name, [name]) for name in dataset.metainfo['classes']],
            groups={
                marked(title, vocabulary_of(group)): [
                    marked(name, [name]) for name in vocabulary_of(group)
                ]
                for group, title in GROUPS.items()
            },
            scores={title: measured.class_iou for title, measured in reversed(kept.items())},
        ),
        out / 'classes.png',
    )
    blocks = [f'blocks_{number}.png' for number in range(len(found['ESC-Net'].predictions))]
    for number, name in enumerate(blocks):
        save_figure(draw_blocks(model, dataset, number), out / name)
    if logged:
        save_figure(figures.curves_figure(logged), out / 'curves.png')
    page = PAGE.format(
        table=text,
        chance=chance,
        origin='\n'.join(f'- {key}: {value}' for key, value in origin.items()),
        blocks=''.join(f'![Blocks, scene {i}]({name})\n' for i, name in enumerate(blocks)),
        training=CURVES if logged else '',
    )
    write_file(out / 'report.md', page.encode())
    print(f'\n{text}\n\npage with pictures: {out / "report.md"}')


def draw_scenes_found(dataset, found):
    """Image, ground truth and predictions of the first scenes, one below the other."""
    from mmseg_escnet.visualization import draw_comparison

    pictures = []
    for number, predictions in enumerate(
        zip(*(m.predictions for m in found.values()), strict=True)
    ):
        sample = dataset[number]
        truth = sample['data_samples'].gt_sem_seg.data[0].numpy()
        maps = {'ground truth': truth, **dict(zip(found, predictions, strict=True))}
        names = [marked(name, [name]) for name in dataset.metainfo['classes']]
        palette = dataset.metainfo['palette']
        pictures.append(draw_comparison(image_of(sample), maps, names=names, palette=palette))
    size = max(p.width for p in pictures), sum(p.height for p in pictures)
    column = Image.new('RGB', size, 'white')
    top = 0
    for picture in pictures:
        column.paste(picture, (0, top))
        top += picture.height
    return column


def draw_blocks(model, dataset, number: int):
    """What each block does for the thing with the most pixels in an image."""
    from mmengine.dataset import pseudo_collate

    from mmseg_escnet.apis.inside import look_inside, whole_view

    model.set_vocabulary(dataset.metainfo['classes'], dataset.metainfo['palette'])
    data = model.data_preprocessor(pseudo_collate([dataset[number]]), False)
    sample = data['data_samples'][0]
    counts = np.bincount(sample.gt_sem_seg.data.cpu().numpy().ravel(), minlength=256)
    thing = int(counts[: len(THING_NAMES)].argmax())  # the first of all names are things
    view = whole_view(model, data['inputs'], sample.metainfo)
    image, names = image_of(dataset[number]), {model.vocabulary.names[thing]: thing}
    (inside,) = look_inside(model, view, image, model.text_features(), names)
    return inside.figure()


def image_of(sample: dict):
    """(H, W, 3) uint8, RGB, of a sample of the data set."""
    return sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1].copy()


if __name__ == '__main__':
    run_tool(main)
