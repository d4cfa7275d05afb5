"""Evaluate a checkpoint.

    mmseg-escnet test CONFIG CHECKPOINT                       on the data set of the config
    mmseg-escnet test CONFIG CHECKPOINT --benchmarks all      on the six zero-shot benchmarks
    mmseg-escnet test CONFIG CHECKPOINT --subset 50           a first look, in minutes
    mmseg-escnet test configs/clip/clip_vitb16_readout.py     CLIP alone, without a checkpoint

Results of finished benchmarks are kept in the work dir; the same command does not run them again.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mmseg_escnet.cli import (
    add_config_arguments,
    command_line,
    load_run_config,
    make_parser,
    run_tool,
)
from mmseg_escnet.errors import ESCNetError, Problems

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file; none for CLIP alone')
    parser.add_argument(
        '--benchmarks',
        nargs='+',
        metavar='KEY',
        help='all, or some of A-847 PC-459 A-150 PC-59 PAS-20 PAS-20b COCO-171',
    )
    parser.add_argument(
        '--subset',
        type=int,
        metavar='N',
        help='a first look: N images of each data set, evenly spread and the same each time; not '
        'comparable with published figures',
    )
    parser.add_argument(
        '--out', help='folder for the predicted label maps, one PNG per image, and names.json'
    )
    parser.add_argument(
        '--show', action='store_true', help='show the drawn predictions in a window'
    )
    parser.add_argument('--show-dir', help='folder for the drawn predictions')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds a window stays open (default: 2)'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation: the config's own, or a horizontal flip",
    )
    return parser.parse_args()


def draw_results(
    cfg: Config, *, show: bool = False, show_dir: str | None = None, wait_time: float = 0
) -> None:
    """Draw ground truth and prediction of every image side by side.

    Args:
        cfg: The config, modified in place.
        show: Show them in a window.
        show_dir: Folder to save them to.
        wait_time: Seconds that a window stays open.

    Raises:
        ESCNetError: If both are given, since MMSegmentation would ignore the folder, or if the
            config has no visualisation hook.
    """
    if show and show_dir is not None:
        raise ESCNetError(
            '--show and --show-dir exclude each other, because MMSegmentation saves nothing while '
            'it shows images: leave one out.'
        )
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None or cfg.get('visualizer') is None:
        raise ESCNetError(
            '--show and --show-dir need default_hooks.visualization and visualizer in the config: '
            "inherit configs/_base_/runtime.py, and set visualization=dict(type='"
            "SegVisualizationHook')."
        )
    hook.update(draw=True, interval=1)
    if show:
        hook.update(show=True, wait_time=wait_time)
    else:
        cfg.visualizer.save_dir = show_dir


def main() -> None:
    args = parse_args()
    cfg = load_run_config(args)

    from mmseg_escnet.config import check_needs_no_checkpoint
    from mmseg_escnet.engine import check_test_weights, use_tta
    from mmseg_escnet.evaluation.saved_predictions import save_predictions
    from mmseg_escnet.evaluation.zero_shot_benchmarks import select_benchmarks
    from mmseg_escnet.evaluation.zero_shot_runs import evaluate_benchmarks, evaluate_once
    from mmseg_escnet.preflight import check_datasets

    if args.show or args.show_dir is not None:
        draw_results(cfg, show=args.show, show_dir=args.show_dir, wait_time=args.wait_time)
    if args.checkpoint is None:
        check_needs_no_checkpoint(cfg)
    if args.benchmarks is not None:
        benchmarks = select_benchmarks(args.benchmarks)
        evaluate_benchmarks(
            cfg,
            benchmarks,
            checkpoint=args.checkpoint,
            overrides=args.cfg_options,
            tta=args.tta,
            subset=args.subset,
            out=args.out,
            show_dir=args.show_dir,
            command=command_line(),
        )
        return
    if cfg.get('test_dataloader') is None:
        raise ESCNetError(
            f'{args.config} has no test_dataloader: inherit one, or use --benchmarks.'
        )
    if args.tta:
        use_tta(cfg)
    problems = Problems()
    with problems:
        dataset = check_datasets(cfg, 'test')['test']
    with problems:
        check_test_weights(cfg, args.checkpoint, allow_download=not problems.sentences)
    problems.raise_all()
    if args.out is not None:
        save_predictions(cfg, dataset, args.out)
    evaluate_once(
        cfg,
        dataset,
        checkpoint=args.checkpoint,
        tta=args.tta,
        command=command_line(),
        subset=args.subset,
    )


if __name__ == '__main__':
    run_tool(main)
