"""Which of our readings of the paper does the toy world support?

Trains ESC-Net for each variant and seed, and evaluates it on names with and without masks. Each
finished run has a file in OUT/runs, so the same command resumes an interrupted study. Writes
OUT/study.md, OUT/study.png and OUT/study.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mmseg_escnet.cli import add_cfg_options, run_tool
from mmseg_escnet.config import read_config
from mmseg_escnet.datasets.parallel import default_workers
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.files import write_file
from mmseg_escnet.tables import table
from mmseg_escnet.toyworld.drawing import draw_scenes
from mmseg_escnet.toyworld.vocabulary import ALL_NAMES, with_synonyms

ROOT = Path(__file__).resolve().parents[2]
BASELINE = 'baseline'
_NECK = 'model.neck.'
_TEXT = f'{_NECK}fusion.text_guidance'
_OWN_WORD = {f'{_NECK}fusion.own_word': True}
_PAIR = {f'{_NECK}fusion.swin_blocks': 'pair'}
_MLP = {f'{_NECK}fusion.text_mlp_ratio': 4.0}
_SELF = {_TEXT: 'self'} | _MLP  # CAT-Seg's block
_BOTH_LAYERS = {f'{_NECK}sam_block.layers': 'all'}
# name -> settings that differ from configs/toyworld/escnet_toy.py
VARIANTS: dict[str, dict] = {
    BASELINE: {},
    'no SAM block': {f'{_NECK}sam_block': None},
    'SAM block at random': {f'{_NECK}sam_pretrained': None},
    'SAM block at random, trained': {
        f'{_NECK}sam_pretrained': None,
        f'{_NECK}sam_block.trainable': 'all',
        'optim_wrapper.paramwise_cfg.custom_keys': {'sam_block.layers': dict(lr_mult=1.0)},
    },
    'query sees its own word': _OWN_WORD,
    'attention over the classes': _SELF,
    'Swin pair': _PAIR,
    'Swin pair, own word': _PAIR | _OWN_WORD,
    'Swin pair, attention over the classes': _PAIR | _SELF,
    'MLP after the text guidance': _MLP,
    'both SAM layers': _BOTH_LAYERS,
    'decoder: two convolutions': {'model.decode_head.num_convs': 2},
    'pair, classes, both layers': _PAIR | _SELF | _BOTH_LAYERS,
    'no text guidance': {_TEXT: None},
    'no image guidance': {f'{_NECK}image_guidance': False, f'{_NECK}sam_block': None},
    'prompts: points': {f'{_NECK}prompt_encoder.prompts': ('points',)},
    'prompts: masks': {f'{_NECK}prompt_encoder.prompts': ('masks',)},
    'prompts: boxes': {f'{_NECK}prompt_encoder.prompts': ('boxes',)},
    'K = 1': {f'{_NECK}prompt_generator.num_objects': 1},
    'K = 3': {f'{_NECK}prompt_generator.num_objects': 3},
    'K = auto': {f'{_NECK}prompt_generator.num_objects': 'auto'},
    '1 block': {f'{_NECK}num_blocks': 1},
    '4 blocks': {f'{_NECK}num_blocks': 4},
    'classes fused by presence': {f'{_NECK}sam_block.class_fusion': 'presence'},
    'masks as probabilities': {f'{_NECK}prompt_encoder.mask_as_logits': False},
    'alpha = 0.3': {f'{_NECK}prompt_generator.threshold': 0.3},
    'alpha = 0.7': {f'{_NECK}prompt_generator.threshold': 0.7},
    'no residual to the logits': {'model.decode_head.residual': False},
}
COLUMNS = {
    'mIoU_seen_things': 'seen shapes',
    'mIoU_seen_stuff': 'seen grounds',
    'mIoU_unseen_combination': 'unseen combination',
    'mIoU_unseen_attribute': 'unseen attribute',
    'mIoU_gt': 'all',
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', default=str(ROOT / 'configs/toyworld/escnet_toy.py'))
    add_cfg_options(parser)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/toyworld_study'))
    parser.add_argument('--variants', nargs='+', default=list(VARIANTS), help='default: all')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--iterations', type=int, default=200)
    parser.add_argument('--scenes', type=int, nargs=2, default=(3000, 100), help='train and val')
    parser.add_argument('--jobs', type=int, default=default_workers(), help='parallel runs')
    parser.add_argument('--one', nargs=2, metavar=('VARIANT', 'SEED'), help=argparse.SUPPRESS)
    return parser.parse_args()


def run_file(out: Path, variant: str, seed: int) -> Path:
    """The file with the results of a run."""
    name = ''.join(c if c.isalnum() else '_' for c in variant)
    return out / 'runs' / f'{name}__seed{seed}.json'


def keep_settings(args: argparse.Namespace, cfg) -> None:
    """Write the config that all runs start from; a study never mixes runs of different settings.

    Raises:
        ESCNetError: If the runs in ``args.out`` were made with other settings.
    """
    settings = dict(iterations=args.iterations, scenes=list(args.scenes), config=cfg.pretty_text)
    file = args.out / 'settings.json'
    if not file.exists():
        write_file(file, json.dumps(settings, indent=1).encode())
    before = json.loads(file.read_text())
    if different := [key for key in settings if settings[key] != before.get(key)]:
        raise ESCNetError(
            f'The runs in {args.out} were made with another {" and ".join(different)}: '
            'give another --out, or the same settings.'
        )
    write_file(args.out / 'config.py', cfg.pretty_text.encode())


def run_one(args: argparse.Namespace, variant: str, seed: int) -> None:
    """Train and evaluate one variant in this process."""
    import torch
    from mmengine.registry import init_default_scope

    from mmseg_escnet import components  # noqa: F401
    from mmseg_escnet.toyworld import experiment

    torch.set_num_threads(1)
    start = time.monotonic()
    cfg = read_config(args.config, VARIANTS[variant])
    cfg.randomness = dict(seed=seed)
    target = run_file(args.out, variant, seed)
    cfg.work_dir = str(target.with_suffix(''))
    cfg.default_hooks.checkpoint.interval = args.iterations
    experiment.shorten(cfg, args.iterations)
    init_default_scope('mmseg')
    experiment.use_scenes(cfg, args.out / 'scenes')
    model, _, logged = experiment.train(cfg)
    seconds = time.monotonic() - start
    dataset = experiment.build_dataset(cfg)
    found = experiment.measure(model, dataset, cfg.test_evaluator)
    record = dict(
        variant=variant,
        seed=seed,
        seconds=round(seconds),
        loss=round(float(np.mean(logged['loss'][-20:])), 4),
        metrics=found.metrics,
    )
    if variant == BASELINE:  # the same weights with averaged synonyms; training uses the first
        words = [with_synonyms(name) for name in ALL_NAMES]
        model.text_encoder.synonyms = 'mean'
        mean = experiment.measure(model, dataset, cfg.test_evaluator, words=words)
        record['synonyms'] = dict(first=found.metrics['mIoU_gt'], mean=mean.metrics['mIoU_gt'])
    write_file(target, json.dumps(record, indent=1).encode())


def run_all(args: argparse.Namespace) -> list[str]:
    """Run what is missing, several runs in parallel, each in its own process.

    Returns:
        A message for each failed run, with the end of its log.
    """
    missing = [
        (variant, seed)
        for seed in args.seeds
        for variant in args.variants
        if not run_file(args.out, variant, seed).exists()
    ]

    def start(variant: str, seed: int) -> str | None:
        log = run_file(args.out, variant, seed).with_suffix('.log')
        command = [sys.executable, __file__, '--one', variant, str(seed)]
        command += ['--config', str(args.out / 'config.py'), '--out', str(args.out)]
        command += ['--iterations', str(args.iterations)]
        own = os.environ | {'OMP_NUM_THREADS': '1'}
        done = subprocess.run(command, env=own, capture_output=True, text=True)
        log.write_text(done.stdout + done.stderr)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [f'exit status {done.returncode}']
            return f'{variant}, seed {seed}: {last[0]} (see {log})'
        return None

    failed = []
    with (
        ThreadPoolExecutor(args.jobs) as pool,
        tqdm(total=len(missing), desc='runs', unit='run', disable=None) as bar,
    ):
        futures = [pool.submit(start, *one) for one in missing]
        try:
            for future in as_completed(futures):
                if message := future.result():
                    failed.append(message)
                bar.update()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def collect(args: argparse.Namespace) -> dict[str, list[dict]]:
    """The records of each variant, by seed."""
    found = {}
    for variant in args.variants:
        files = [run_file(args.out, variant, seed) for seed in args.seeds]
        found[variant] = [json.loads(file.read_text()) for file in files if file.exists()]
    return {variant: records for variant, records in found.items() if records}


def spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds."""
    deviation = f' ± {np.std(values, ddof=1):.1f}' if len(values) > 1 else ''
    return f'{np.mean(values):.1f}{deviation}'


def write_summary(args: argparse.Namespace, found: dict[str, list[dict]]) -> None:
    """Write and print the table; write the records and the figure."""
    from mmseg_escnet.toyworld.figures import study_figure
    from mmseg_escnet.visualization import save_figure

    def values(variant: str, key: str, kind: str = 'metrics') -> list[float]:
        return [record[kind][key] for record in found[variant]]

    rows = [
        (variant, len(records), *(spread(values(variant, key)) for key in COLUMNS))
        for variant, records in found.items()
    ]
    text = table(['variant', 'runs', *COLUMNS.values()], rows, markdown=True)
    if BASELINE in found:
        first, mean = (spread(values(BASELINE, key, 'synonyms')) for key in ('first', 'mean'))
        text += f'\n\nNames with synonyms, all names: first {first}, mean {mean}.'
    write_file(args.out / 'study.md', f'{text}\n'.encode())
    write_file(args.out / 'study.json', json.dumps(found, indent=1).encode())
    unseen = {variant: values(variant, 'mIoU_unseen_combination') for variant in found}
    figure = study_figure(unseen, baseline=BASELINE, metric='mIoU (%) of unseen combinations')
    save_figure(figure, args.out / 'study.png')
    print(text)


def main() -> int:
    """Run what is missing and summarise all runs.

    Returns:
        The exit status: 1 if a run failed.
    """
    args = parse_args()
    args.variants, args.seeds = (list(dict.fromkeys(x)) for x in (args.variants, args.seeds))
    asked = [args.one[0]] if args.one else args.variants
    if unknown := [variant for variant in asked if variant not in VARIANTS]:
        raise ESCNetError(
            f'The study has no variant {unknown[0]!r}: choose among {", ".join(VARIANTS)}.'
        )
    if args.one:
        run_one(args, args.one[0], int(args.one[1]))
        return 0
    from mmseg_escnet.preflight import find_weights

    cfg = read_config(args.config, args.cfg_options)
    find_weights(cfg.model)
    (args.out / 'runs').mkdir(parents=True, exist_ok=True)
    keep_settings(args, cfg)
    train, val = args.scenes
    draw_scenes(args.out / 'scenes', train=train, val=val, workers=default_workers())
    failed = run_all(args)
    if found := collect(args):
        write_summary(args, found)
    for message in failed:
        print(f'error: {message}', file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    run_tool(main, interrupted='the same command resumes where this one stopped')
