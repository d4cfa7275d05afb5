"""Train a tiny ESC-Net on drawn scenes, then segment with words it never had a mask of.

What happens is what happens with the full model: the same runner, data sets, configs and metric.
Takes about two minutes on two cores. Writes OUT/panels.png and OUT/table.txt.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from mmseg_escnet.cli import run_tool
from mmseg_escnet.errors import ESCNetError

ROOT = Path(__file__).resolve().parents[2]


def parse_args() -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', default=str(ROOT / 'configs/toyworld/escnet_toy.py'))
    parser.add_argument('--out', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--scenes', type=int, nargs=2, default=(2000, 200), help='train and val')
    parser.add_argument('--iterations', type=int, help='in place of those in the config')
    parser.add_argument('--rows', type=int, default=5, help='images in the picture')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override settings of the config'
    )
    return parser.parse_args()


def draw_scenes(cfg, root: Path, num_scenes: tuple[int, int]) -> None:
    """Write scenes of the shapes in the config's vocabulary, if they are not there yet."""
    import make_scenes

    from mmseg_escnet.datasets.toyworld_scenes import THING_NAMES

    things = [name for name in cfg.test_dataloader.dataset.metainfo.classes if name in THING_NAMES]
    train, val = map(str, num_scenes)
    options = ['--out', str(root), '--train', train, '--val', val, '--things', *things]
    if make_scenes.main(options):
        raise ESCNetError(f'Not all scenes could be written to {root}: see above.')
    for dataloader in (cfg.train_dataloader, cfg.test_dataloader):
        dataloader.dataset.data_root = f'{root}/'


def chance_iou(dataset) -> np.ndarray:
    """IoU (N,) in percent of guessing every pixel, NaN for classes that do not occur."""
    num_classes = len(dataset.metainfo['classes'])
    counts = np.zeros(num_classes)
    for item in dataset:
        labels = item['data_samples'].gt_sem_seg.data.numpy()
        counts += np.bincount(labels[labels < num_classes], minlength=num_classes)
    share = counts / counts.sum()
    # right in share / N of the pixels, labelled or guessed in share + 1 / N - share / N
    iou = share / (share * num_classes + 1 - share)
    return np.where(counts > 0, 100 * iou, np.nan)


def table(metrics: dict, dataset, is_unseen: np.ndarray) -> str:
    """The figures as text."""
    from prettytable import PrettyTable

    result = PrettyTable(['mIoU (%) over', 'ESC-Net', 'chance'])
    result.align = 'l'
    chance = chance_iou(dataset)
    for name, key, chosen in (
        ('all {} names', 'mIoU_gt', np.ones_like(is_unseen)),
        ('{} names with masks in training', 'mIoU_seen', ~is_unseen),
        ('{} names without', 'mIoU_unseen', is_unseen),
    ):
        guessed = np.nanmean(chance[chosen])
        result.add_row([name.format(chosen.sum()), f'{metrics[key]:.1f}', f'{guessed:.1f}'])
    return str(result)


@torch.no_grad()
def panel_rows(model, dataset, num_rows: int) -> list:
    """Segment the first images and keep their pseudo prompts."""
    from mmengine.dataset import pseudo_collate

    from mmseg_escnet.datasets.toyworld_scenes import THING_NAMES
    from mmseg_escnet.visualization import PanelRow

    model.eval()
    rows = []
    for number in range(num_rows):
        batch = pseudo_collate([dataset[number]])
        sample = model.test_step(batch)[0]
        data = model.data_preprocessor(batch, False)
        blocks = model.extract_feat(data['inputs'], keep_blocks=True).blocks
        truth = sample.gt_sem_seg.data[0].cpu().numpy()
        # the shape with the most pixels
        counts = np.bincount(truth[truth < model.num_classes], minlength=model.num_classes)
        counts *= [name in THING_NAMES for name in model.vocabulary.names]
        image = batch['inputs'][0].permute(1, 2, 0).numpy()[..., ::-1]
        rows.append(
            PanelRow(
                image=np.ascontiguousarray(image),
                truth=truth,
                prediction=sample.pred_sem_seg.data[0].cpu().numpy(),
                prompts=blocks[-1].prompts,
                index=0,
                class_id=int(counts.argmax()),
            )
        )
    return rows


def main() -> None:
    args = parse_args()
    from mmengine.config import Config
    from mmengine.runner import Runner

    from mmseg_escnet.visualization import save_panels

    start = time.monotonic()
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir = str(args.out / 'run')
    # evaluated once, after training
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    draw_scenes(cfg, args.out / 'scenes', args.scenes)
    if args.iterations is not None:
        cfg.train_cfg.max_iters = args.iterations
    runner = Runner.from_cfg(cfg)
    runner.train()
    metrics = runner.test()

    dataset = runner.test_dataloader.dataset
    seen = set(runner.train_dataloader.dataset.metainfo['classes'])
    names = dataset.metainfo['classes']
    unseen = [name for name in names if name not in seen]
    text = table(metrics, dataset, np.array([name in unseen for name in names]))
    rows = panel_rows(runner.model, dataset, args.rows)
    picture = save_panels(rows, runner.model.vocabulary, args.out / 'panels.png')
    (args.out / 'table.txt').write_text(text + '\n')
    print(f'\n{text}\nwithout a mask in training: {", ".join(unseen)}')
    print(f'pictures: {picture}, table: {args.out / "table.txt"}')
    print(f'{time.monotonic() - start:.0f} s in all')


if __name__ == '__main__':
    run_tool(main)
