"""What a shortlist of classes costs in accuracy and gains in time, on the toy world.

Segments scenes with the trained miniature ESC-Net into the large vocabulary, exactly and with
shortlists of several lengths; reports the mIoU, the time of an image, and how often the class that
wins exactly was dropped. Writes OUT.png and OUT.json.
"""

from __future__ import annotations

import mmseg_escnet.threads  # noqa: F401  before torch

# isort: split

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from canary import load_model
from measure import build_dataset, measure
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate

from mmseg_escnet.cli import run_tool
from mmseg_escnet.files import write_file
from mmseg_escnet.models.segmentors.escnet import correlate
from mmseg_escnet.models.segmentors.shortlist import Shortlist

SEED = 11


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--top-k', type=int, nargs='+', default=[4, 8, 12, 16, 24, 32, 48, 64], metavar='K'
    )
    parser.add_argument(
        '--threshold', type=float, nargs='+', default=[0.01, 0.03, 0.1], metavar='P'
    )
    parser.add_argument(
        '--representatives', type=int, default=8, help='of the dropped classes (%(default)s)'
    )
    parser.add_argument('--scenes', type=int, default=40, help='number of scenes')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/toyworld/shortlist'))
    return parser.parse_args()


def settings(args: argparse.Namespace) -> dict[str, dict | None]:
    """``test_cfg.shortlist`` by what it is called; None is exact."""
    limits = {f'top_k={k}': dict(top_k=k) for k in args.top_k}
    limits |= {f'threshold={p:g}': dict(threshold=p) for p in args.threshold}
    others = dict(representatives=args.representatives)
    return {'exact': None} | {name: limit | others for name, limit in limits.items()}


@torch.no_grad()
def winners_dropped(model, dataset, labels: np.ndarray, shortlist: dict) -> float:
    """Percent of the pixels whose class, computed exactly, is not on the shortlist."""
    lost = []
    for number, winners in enumerate(labels):
        data = model.data_preprocessor(pseudo_collate([dataset[number]]), False)
        correlation = correlate(model.backbone(data['inputs']).image, model.text_features())[0]
        chosen = Shortlist.create(shortlist).choose(correlation, model.backbone.logit_scale)
        lost.append(~np.isin(winners, chosen.ids[: chosen.num_kept].numpy()))
    return 100 * float(np.mean(lost))


def compare(args: argparse.Namespace) -> list[dict]:
    """A row for each setting: name, mIoU (%), seconds of an image, percent of the labels that
    changed, and of the pixels whose exact winner was dropped.
    """
    import make_scenes

    cfg, model = load_model()
    rows, exact = [], None
    with TemporaryDirectory() as folder:
        options = ['--train', '0', '--val', str(args.scenes), '--seed', str(SEED), '--workers', '1']
        make_scenes.main(['--out', folder, '--size', '96', *options])
        dataset = build_dataset(cfg, data_root=f'{folder}/', vocabulary='large')
        evaluator = dict(cfg.test_evaluator, groups=None)
        model.set_vocabulary(dataset.metainfo['classes'])
        model.text_features()  # encoded once, for all settings
        for name, shortlist in settings(args).items():
            model.test_cfg = ConfigDict(mode='whole', shortlist=shortlist)
            start = time.perf_counter()
            found = measure(model, dataset, evaluator, description=name, keep=args.scenes)
            seconds = (time.perf_counter() - start) / args.scenes
            labels = np.stack(found.predictions)
            exact = labels if exact is None else exact
            rows.append(
                dict(
                    setting=name,
                    miou=round(found.metrics['mIoU_gt'], 2),
                    seconds=round(seconds, 4),
                    changed=round(100 * float((labels != exact).mean()), 3),
                    dropped=winners_dropped(model, dataset, exact, shortlist) if shortlist else 0.0,
                )
            )
    return rows


def draw(rows: list[dict], words: int):
    """The figure: mIoU against time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout='constrained')
    axes = figure.add_subplot()
    for kind, marker, color in (
        ('exact', '*', '#d55e00'),
        ('top_k', 'o', '#0072b2'),
        ('threshold', 's', '#009e73'),
    ):
        some = [row for row in rows if row['setting'].startswith(kind)]
        times, values = [row['seconds'] for row in some], [row['miou'] for row in some]
        axes.plot(times, values, marker, color=color, markersize=8, label=kind)
        for row in some:
            axes.annotate(
                row['setting'].split('=')[-1],
                (row['seconds'], row['miou']),
                xytext=(8, -12) if kind == 'threshold' else (6, 6),
                textcoords='offset points',
                fontsize=8,
            )
    axes.set_xlabel('seconds an image')
    axes.set_ylabel('mIoU (%)')
    axes.set_title(f'Toy world, {words} words: what a shortlist costs', loc='left', fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
    return figure


def main() -> None:
    args = parse_args()
    from mmseg_escnet.toyworld.vocabulary import vocabulary_of
    from mmseg_escnet.visualization import save_figure

    rows = compare(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_file(args.out.with_suffix('.json'), json.dumps(rows, indent=1).encode())
    save_figure(draw(rows, len(vocabulary_of('large'))), args.out.with_suffix('.png'))
    for row in rows:
        print(
            f'{row["setting"]:<16} mIoU {row["miou"]:6.2f}   {row["seconds"]:.3f} s an image   '
            f'{row["changed"]:.3f} % of the labels changed, '
            f'{row["dropped"]:.3f} % lost their winner'
        )


if __name__ == '__main__':
    run_tool(main)
