"""What ESC-Net costs: time, memory and arithmetic, against the number of classes.

    python tools/analysis/benchmark.py                        # both models, all vocabulary sizes
    python tools/analysis/benchmark.py --configs configs/escnet/escnet_vitb16_coco-stuff.py \\
        --classes 20 150 --modes window --dtypes fp32
    python tools/analysis/benchmark.py --quick                # the miniature model, in a minute

Each measurement runs in a process of its own, one at a time, and is written to OUT/rows when it is
done: the same command goes on where it stopped. What was measured under other conditions (threads,
size, code of the model, versions) is measured again. Writes OUT/benchmark.json, OUT/benchmark.md
and OUT/benchmark.png. Weights are random, and so are images: neither changes the work. On the GPU
too where there is one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmark_cases import (
    MODES,
    SETTINGS,
    Case,
    cases_of,
    class_names,
    conditions_of,
    measure_case,
)
from benchmark_measure import OthersBusy
from tqdm import tqdm

from mmseg_escnet.cli import ConfigOptions, config_folder, run_tool
from mmseg_escnet.datasets.conversion import write_atomically
from mmseg_escnet.errors import ESCNetError

# what the options are where they are not given
FULL = dict(
    configs=['escnet/escnet_vitb16_coco-stuff.py', 'escnet/escnet_vitl14_coco-stuff.py'],
    classes=[20, 59, 150, 171, 459, 847],
    training_classes=[171],
    image_size=640,
    repeats=3,
    seconds=60.0,
)
QUICK = dict(
    configs=['toyworld/escnet_toy.py'],
    classes=[3, 9],
    training_classes=[5],
    image_size=160,
    repeats=1,
    seconds=1.0,
)
_MOST_BUSY = 0.25  # processor cores that others may use
_PACKAGES = ('torch', 'mmsegmentation', 'open_clip_torch')


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--configs', nargs='+', help='by default ViT-B/16 and ViT-L/14')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark'))
    parser.add_argument('--classes', type=int, nargs='+', help='vocabulary sizes')
    parser.add_argument('--settings', nargs='+', choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument(
        '--modes', nargs='*', choices=MODES, default=list(MODES), help='one crop, a whole image'
    )
    parser.add_argument('--dtypes', nargs='+', choices=['fp32', 'bf16'], default=['fp32', 'bf16'])
    parser.add_argument('--devices', nargs='+', choices=['cpu', 'cuda'], help='by default all')
    parser.add_argument('--image-size', type=int, help='of the whole image, in pixels')
    parser.add_argument(
        '--training-classes', type=int, nargs='*', help='of a training step; none leaves it out'
    )
    parser.add_argument('--no-san', dest='san', action='store_false', help='without the peer')
    parser.add_argument('--threads', type=int, default=_usable_cores(), help='of the processor')
    parser.add_argument('--repeats', type=int, help='timed calls')
    parser.add_argument('--seconds', type=float, help='after which a call is not repeated')
    parser.add_argument('--quick', action='store_true', help='the miniature model')
    parser.add_argument('--allow-load', action='store_true', help='although others are at work')
    parser.add_argument('--markdown', action='store_true', help='print the tables as Markdown')
    parser.add_argument(
        '--report', action='store_true', help='measure nothing, sum up what is there'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default={},
        help='override settings of the configs: key=value',
    )
    parser.add_argument('--one', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            if name == 'configs':
                value = [str(config_folder() / config) for config in value]
            setattr(args, name, value)
    if args.devices is None:
        import torch

        args.devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    for config in args.configs:
        if not Path(config).is_file():
            raise ESCNetError(f'The config {config} does not exist: give a path.')
    for count in (*args.classes, *args.training_classes):
        class_names(count)
    if min(args.threads, args.repeats, args.image_size) < 1:
        raise ESCNetError('--threads, --repeats and --image-size must be at least 1.')
    return args


def common_conditions(args: argparse.Namespace) -> dict:
    """Conditions that all cases share."""
    return dict(
        processor=_processor(),
        threads=args.threads,
        image_size=args.image_size,
        cfg_options=dict(args.cfg_options),
        python=platform.python_version(),
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
    )


def _usable_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(':', 1) for line in lines if ':' in line)
    found = {key.strip(): value.strip() for key, value in fields.items()}
    name = found.get('model name', platform.machine())
    units = [
        unit
        for unit in ('avx512f', 'avx512_bf16', 'amx_bf16')
        if unit in found.get('flags', '').split()
    ]
    return f'{name} ({", ".join(units)})' if units else name


def row_file(out: Path, case: Case) -> Path:
    """Where the figures of one case are kept."""
    return out / 'rows' / f'{case.name}.json'


def is_done(out: Path, case: Case, conditions: dict) -> bool:
    """Whether the case has been measured under these conditions."""
    file = row_file(out, case)
    if not file.is_file():
        return False
    row = json.loads(file.read_text())
    return (row['case'], row['conditions']) == (asdict(case), conditions)


def measure_one(task: dict) -> None:
    """Measure in this process, and write the row."""
    row = measure_case(
        Case(**task['case']),
        task['conditions'],
        repeats=task['repeats'],
        seconds=task['seconds'],
    )
    row['measured'] = time.strftime('%Y-%m-%d')
    write_atomically(Path(task['file']), json.dumps(row, indent=1).encode())


def measure_all(args: argparse.Namespace, tasks: list[tuple[Case, dict]]) -> list[str]:
    """Measure what is missing, each in a process of its own, one at a time.

    Returns:
        What failed, with the end of its error.
    """
    missing = [task for task in tasks if not is_done(args.out, *task)]
    failed = []
    with tqdm(
        total=sum(case.weight for case, _ in missing),
        disable=None,
        bar_format='{percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}',
    ) as bar:
        for case, conditions in missing:
            bar.set_postfix_str(case.name)
            task = dict(
                case=asdict(case),
                conditions=conditions,
                repeats=args.repeats,
                seconds=args.seconds,
                file=str(row_file(args.out, case)),
            )
            done = subprocess.run(
                [sys.executable, __file__, '--one', json.dumps(task)],
                env=_environment(case, args.threads),
                capture_output=True,
                text=True,
            )
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:] or [f'status {done.returncode}']
                failed.append(f'{case.name}: {last[0]}')
            bar.update(case.weight)
    return failed


def _environment(case: Case, threads: int) -> dict[str, str]:
    # no text embeddings from the disk: what is measured is making them
    own = dict(OMP_NUM_THREADS=str(threads), MMSEG_ESCNET_CACHE='')
    if case.kind == 'training':  # or glibc's torn heap takes twice what a step needs, or more
        own['MALLOC_MMAP_THRESHOLD_'] = '1000000'
    return os.environ | own


def check_load() -> None:
    """Refuse to measure while others work.

    Raises:
        ESCNetError: If they use more than a quarter of a processor core.
    """
    watch = OthersBusy()
    time.sleep(1)
    if (busy := watch.cores_since()) is not None and busy > _MOST_BUSY:
        raise ESCNetError(
            f'Other processes use {busy:.1f} processor cores, so times would not be ours: wait '
            'until they are done, or pass --allow-load to measure nevertheless.'
        )


def main(argv: list[str] | None = None) -> int:
    """Measure what is missing and sum up."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ['--one']:
        measure_one(json.loads(argv[1]))
        return 0
    args = parse_args(argv)
    common = common_conditions(args)
    tasks = [(case, conditions_of(case, common=common)) for case in cases_of(args)]
    (args.out / 'rows').mkdir(parents=True, exist_ok=True)
    failed = []
    if not args.report and any(not is_done(args.out, *task) for task in tasks):
        if not args.allow_load:
            check_load()
        failed = measure_all(args, tasks)
    rows = [
        json.loads(row_file(args.out, case).read_text())
        for case, conditions in tasks
        if is_done(args.out, case, conditions)
    ]
    from benchmark_report import write_report

    measured = [option for option in argv if option not in ('--report', '--markdown')]
    command = shlex.join(['python', 'tools/analysis/benchmark.py', *measured])
    print(write_report(args.out, rows, command=command, markdown=args.markdown))
    for message in failed:
        print(f'failed: {message}', file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    run_tool(main, interrupted='the same command goes on where it stopped.')
