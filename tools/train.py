"""Train a model: mmseg-escnet train configs/escnet/escnet_vitl14_coco-stuff.py"""

import argparse

from mmseg_escnet.cli import add_config_arguments, load_run_config, run_tool
from mmseg_escnet.errors import ESCNetError, Problems


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train ESC-Net.')
    add_config_arguments(parser)
    parser.add_argument(
        '--resume',
        action='store_true',
        help='continue from the latest checkpoint in the work dir; load_from is only a start',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision; on a CPU only fast with AVX512-BF16 or AMX',
    )
    parser.add_argument(
        '--amp-dtype', choices=['bfloat16', 'float16'], default='bfloat16', help='for --amp'
    )
    parser.add_argument(
        '--random-weights',
        action='store_true',
        help='start from random CLIP and SAM weights, only to try things out',
    )
    parser.add_argument(
        '--calibrate',
        action='store_true',
        help='before the first step, evaluate CLIP alone on the validation data',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_run_config(args)

    import torch

    from mmseg_escnet.config import forget_pretrained
    from mmseg_escnet.engine import (
        InterruptHook,
        build_runner,
        choose_checkpoint,
        in_turns,
        join_processes,
        say,
    )
    from mmseg_escnet.evaluation.calibration import calibrate
    from mmseg_escnet.preflight import check_datasets, find_weights

    if cfg.model.type == 'CLIPReadout':
        raise ESCNetError(f'{args.config} is CLIP alone, which has nothing to train: test it.')
    join_processes(cfg)
    cfg.resume = args.resume or cfg.get('resume', False)
    if args.amp:
        if torch.cuda.is_available():
            cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=args.amp_dtype)
        elif args.amp_dtype == 'bfloat16':
            cfg.optim_wrapper.type = 'CPUAutocastOptimWrapper'
        else:
            raise ESCNetError(
                '--amp-dtype float16 needs a GPU, and PyTorch sees none: use bfloat16.'
            )
    # check all inputs before anything expensive
    if args.calibrate and (args.random_weights or cfg.resume or cfg.get('load_from')):
        raise ESCNetError(
            '--calibrate evaluates the CLIP that an untrained network starts from: leave it out '
            'with --random-weights, --resume or load_from.'
        )
    problems = Problems()
    for phase in ('train', 'val'):
        with problems:
            check_datasets(cfg, phase)
    random_weights = args.random_weights or cfg.get('load_from') is not None
    with problems:
        random_weights |= choose_checkpoint(cfg) is not None
    if random_weights:
        forget_pretrained(cfg.model)
    with problems:
        in_turns(lambda: find_weights(cfg.model, allow_download=not problems.sentences))
    problems.raise_all()
    calibration = calibrate(cfg)['mIoU_gt'] if args.calibrate else None
    runner = build_runner(cfg)
    interruption = InterruptHook()
    runner.register_hook(interruption)
    if calibration is not None:
        say(
            runner.logger,
            f'CLIP alone reaches mIoU_gt {calibration:.2f} on the validation data, before step 1; '
            'anything above it later comes from training.',
        )
    with interruption:
        runner.train()


if __name__ == '__main__':
    run_tool(main)
