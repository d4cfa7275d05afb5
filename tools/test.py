"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT"""

import argparse

from mmseg_escnet.cli import add_config_arguments, load_config, run_tool
from mmseg_escnet.errors import ESCNetError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate ESC-Net.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', help='folder for the predicted label maps, one PNG an image')
    parser.add_argument('--show-dir', help='folder for painted images')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)

    from mmengine.runner import Runner

    from mmseg_escnet.apis.preflight import check_checkpoint, check_datasets

    check_datasets(cfg, 'test')
    check_checkpoint(args.checkpoint)
    cfg.load_from = args.checkpoint
    if args.show_dir is not None:
        cfg.default_hooks.visualization.update(draw=True, interval=1)
        cfg.visualizer.save_dir = args.show_dir
    if args.out is not None:
        if not isinstance(cfg.test_evaluator, dict):
            raise ESCNetError(
                '--out needs a config with a single test_evaluator: set output_dir of one in a '
                'list with --cfg-options.'
            )
        cfg.test_evaluator.update(output_dir=args.out, keep_results=True)
    Runner.from_cfg(cfg).test()


if __name__ == '__main__':
    run_tool(main)
