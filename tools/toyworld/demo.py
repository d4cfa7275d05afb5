"""The whole chain on the toy world: train ESC-Net on masks of some names, segment into all of them.

The miniature CLIP and SAM of data/toyworld are loaded, ESC-Net is trained on them with the same
runner, data sets, configs and metric as the full model, and measured beside CLIP's raw read-out,
chance, and a control in which the words of the names without masks are exchanged. Writes
OUT/report.html, OUT/table.txt, OUT/result.json and pictures.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mmseg_escnet.cli import ConfigOptions, run_tool

ROOT = Path(__file__).resolve().parents[2]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', default=str(ROOT / 'configs/toyworld/escnet_toy.py'))
    parser.add_argument('--out', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--scenes', type=int, nargs=2, default=(3000, 100), help='train and val')
    parser.add_argument('--iterations', type=int, help='in place of those in the config')
    parser.add_argument('--checkpoint', help='measure this one instead of training')
    parser.add_argument('--save', type=Path, help='also write the trained weights to this file')
    parser.add_argument('--rows', type=int, default=5, help='images in the pictures')
    parser.add_argument('--no-large', action='store_true', help='leave out the large vocabulary')
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, help='override settings of the config'
    )
    return parser.parse_args()


def main() -> None:
    """Draw, train, measure, report."""
    args = parse_args()
    from experiment import make_scenes_for, save_weights, shorten, train, use_scenes
    from measure import build_dataset, chance_iou, measure, permuted, raw_readout
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from mmseg_escnet.preflight import check_weights

    start = time.monotonic()
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir = str(args.out / 'run')
    if args.iterations is not None:
        shorten(cfg, args.iterations)
    init_default_scope('mmseg')
    check_weights(cfg.model)
    make_scenes_for(args.out / 'scenes', args.scenes)
    use_scenes(cfg, args.out / 'scenes')
    model, untrained, logged = train(cfg, args.checkpoint)

    if args.save is not None:
        save_weights(model, args.save)

    dataset = build_dataset(cfg)
    names = dataset.metainfo['classes']
    kept = dict(keep=args.rows)
    found = {
        'ESC-Net': measure(model, dataset, cfg.test_evaluator, description='ESC-Net', **kept),
        'raw CLIP': measure(
            untrained,
            dataset,
            cfg.test_evaluator,
            predict=raw_readout,
            description='raw CLIP',
            **kept,
        ),
        'words exchanged': measure(
            model,
            dataset,
            cfg.test_evaluator,
            words=permuted(names),
            description='words exchanged',
        ),
    }
    chance = chance_iou(dataset)
    large = {}
    if not args.no_large:
        words = build_dataset(cfg, vocabulary='large')
        for title, network, predict in (
            ('ESC-Net', model, None),
            ('raw CLIP', untrained, raw_readout),
        ):
            large[title] = measure(
                network,
                words,
                cfg.test_evaluator,
                predict=predict,
                description=f'{title}, {len(words.metainfo["classes"])} words',
            )
    seconds = time.monotonic() - start
    from demo_report import write_demo_report

    write_demo_report(
        args.out,
        model=model,
        dataset=dataset,
        found=found,
        chance=chance,
        large=large,
        logged=logged,
        seconds=seconds,
    )
    print(f'{seconds:.0f} s in all')


if __name__ == '__main__':
    run_tool(main)
