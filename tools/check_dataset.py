"""Look through prepared data sets before hours are spent on them.

    mmseg-escnet check dataset configs/escnet/escnet_vitb16_coco-stuff.py

CONFIG is a whole config or one of configs/_base_/datasets. Every image and label map is read as in
training. For each data set this prints what is in it, and what is wrong with it; written are

    OUT/CONFIG_PHASE.png     ten images with their label maps, to be looked at
    OUT/CONFIG_PHASE.csv     pixels and images of every class

The exit status is 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from mmseg_escnet.cli import ConfigOptions, load_config, run_tool
from mmseg_escnet.datasets.parallel import default_workers
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.files import write_file

if TYPE_CHECKING:
    from mmseg_escnet.datasets.inspection import Inspection, LabelIds
    from mmseg_escnet.datasets.inspection_problems import Problem

PHASES = ('train', 'val', 'test')
EXIT_WRONG = 1
LONGEST_NAME = 22  # characters
CLASSES_SHOWN = 8
ABSENT_SHOWN = 12
FILES_SHOWN = 3
# What tells two data sets of one config apart is not how they are fed to a model.
NOT_THE_DATA = ('pipeline', 'test_mode', 'lazy_init', 'serialize_data', 'max_refetch')


@dataclass
class Target:
    """A data set to look at.

    Attributes:
        name: Of its files in OUT.
        cfg: Its config.
        background_from: Class from which on all are evaluated as one, see ``OpenVocabIoUMetric``.
        users: Config file -> phases in which it is used.
    """

    name: str
    cfg: dict
    background_from: int | None = None
    users: dict[str, list[str]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The first config that uses it, its phases there, and how many others do."""
        config, phases = next(iter(self.users.items()))
        others = len(self.users) - 1
        more = f', and {others} other config{"s" if others > 1 else ""}' if others else ''
        return f'{config}: {", ".join(phases)}{more}'


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', metavar='CONFIG', nargs='+', help='config files')
    parser.add_argument(
        '--phase', nargs='+', choices=PHASES, default=list(PHASES), help='default: all'
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/check_dataset'))
    parser.add_argument(
        '--limit', type=int, metavar='N', help='look at N evenly spaced images of each data set'
    )
    parser.add_argument('--workers', type=int, default=default_workers(), help='processes')
    parser.add_argument(
        '--allow-partial', action='store_true', help='fewer images than were published are right'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, help='override settings of the configs'
    )
    parser.set_defaults(work_dir=None, launcher='none')
    return parser.parse_args(argv)


def find_targets(args: argparse.Namespace) -> list[Target]:
    """List the data sets of all configs, equal ones once.

    Raises:
        ESCNetError: If a config does not exist, or has no data set.
    """
    targets: dict[str, Target] = {}
    for config in args.configs:
        cfg = load_config(argparse.Namespace(**{**vars(args), 'config': config}))
        found = False
        for phase in PHASES:
            dataloader = cfg.get(f'{phase}_dataloader') if phase in args.phase else None
            for dataset in _leaves((dataloader or {}).get('dataset')):
                found = True
                background_from = _background_from(cfg.get(f'{phase}_evaluator'))
                key = _key(dataset, background_from)
                if key not in targets:
                    taken = {target.name for target in targets.values()}
                    name = _free_name(f'{Path(config).stem}_{phase}', taken)
                    targets[key] = Target(name, dataset, background_from)
                phases = targets[key].users.setdefault(Path(config).name, [])
                if phase not in phases:
                    phases.append(phase)
        if not found:
            raise ESCNetError(
                f'The config {config} has no data set for {", ".join(args.phase)}: give one with '
                'train_dataloader, val_dataloader or test_dataloader.'
            )
    return list(targets.values())


def _leaves(dataset: dict | Sequence[dict] | None) -> Iterator[dict]:
    """The data sets inside of ConcatDataset, RepeatDataset and the like."""
    if dataset is None:
        return
    if not isinstance(dataset, dict):
        for part in dataset:
            yield from _leaves(part)
    elif inner := dataset.get('datasets', dataset.get('dataset')):
        yield from _leaves(inner)
    else:
        yield dataset


def _background_from(evaluators: dict | Sequence[dict] | None) -> int | None:
    evaluators = [evaluators] if isinstance(evaluators, dict) else evaluators or []
    return next((each['background_from'] for each in evaluators if 'background_from' in each), None)


def _key(dataset: dict, background_from: int | None) -> str:
    data = {key: value for key, value in dataset.items() if key not in NOT_THE_DATA}
    return json.dumps([data, background_from], sort_keys=True, default=str)


def _free_name(name: str, taken: set[str]) -> str:
    candidates = (name, *(f'{name}_{number}' for number in range(2, len(taken) + 3)))
    return next(candidate for candidate in candidates if candidate not in taken)


def class_table(inspection: Inspection) -> bytes:
    """Pixels and images of every class as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['id', 'class', 'pixels', 'share', 'images'])
    labelled = max(int(inspection.class_pixels.sum()), 1)
    rows = zip(
        inspection.labels.names, inspection.class_pixels, inspection.class_images, strict=True
    )
    for number, (name, pixels, images) in enumerate(rows):
        writer.writerow([number, name, pixels, f'{pixels / labelled:.6g}', images])
    return text.getvalue().encode()


def print_inspection(console: Console, inspection: Inspection) -> None:
    """Print what is in a data set."""
    from mmseg_escnet.datasets.contact_sheet import format_share

    labels, looked_at = inspection.labels, len(inspection.samples)
    total = f'{inspection.total}' + (
        f' of {inspection.expected} published' if inspection.expected else ''
    )
    part = 'all' if looked_at == inspection.total else f'{looked_at}, evenly spaced,'
    occurring = np.flatnonzero(inspection.id_pixels)
    lines = {
        'images': f'{total}, {part} looked at; in {_folder(s.image for s in inspection.samples)}',
        'label maps': f'in {_folder(s.label for s in inspection.samples)}',
    }
    if len(occurring):
        bits = ' and '.join(str(bits) for bits in sorted(inspection.bits))
        ids = _ranges(occurring, labels)
        lines['ids'] = (
            f'{ids} in {bits} bits; {len(labels.names)} classes have {labels.first} to '
            f'{labels.last}, ignored: {labels.ignore_index}'
            + (' and 0 (reduce_zero_label)' if labels.reduce_zero_label else '')
        )
        lines['sizes'] = _sizes(inspection)
        share = inspection.ignored_pixels / inspection.id_pixels.sum()
        seen = np.count_nonzero(inspection.class_pixels)
        lines['ignored'] = f'{format_share(share)} of the pixels'
        lines['classes'] = f'{seen} of {len(labels.names)} occur'
    for name, text in lines.items():
        _say(console, f'{name:<11} {text}')


def _folder(files: Iterable[str]) -> str:
    return os.path.commonpath([os.path.dirname(file) for file in files])


def _ranges(ids: np.ndarray, labels: LabelIds) -> str:
    """The ids that occur: the lowest and the highest, and what usually means unlabelled."""
    apart = [i for i in (255, 65535) if i in ids and i > labels.last]
    others = [i for i in ids.tolist() if i not in apart]
    parts = (
        [f'{others[0]} to {others[-1]}' if len(others) > 1 else str(others[0])] if others else []
    )
    return ' and '.join(parts + [str(i) for i in apart])


def _sizes(inspection: Inspection) -> str:
    (height, width), _ = inspection.image_sizes.most_common(1)[0]
    if len(inspection.image_sizes) == 1:
        return f'all {width}x{height}'
    heights, widths = zip(*inspection.image_sizes, strict=True)
    return (
        f'{min(widths)}x{min(heights)} to {max(widths)}x{max(heights)}, most often {width}x{height}'
    )


def print_classes(console: Console, inspection: Inspection) -> None:
    """Print the most frequent and the rarest classes, and those that never occur."""
    from mmseg_escnet.datasets.contact_sheet import format_share
    from mmseg_escnet.vocabulary import short_name

    names, pixels = inspection.labels.names, inspection.class_pixels
    order = np.argsort(-pixels, kind='stable')
    seen = [int(i) for i in order if pixels[i] > 0]
    absent = [short_name(names[i], LONGEST_NAME) for i in np.flatnonzero(pixels == 0)]
    if seen:
        frequent = seen[:CLASSES_SHOWN]
        rarest = seen[CLASSES_SHOWN:][::-1][:CLASSES_SHOWN]
        table = Table(box=None, pad_edge=False, header_style='bold')
        for heading in ('most frequent', 'rarest')[: 2 if rarest else 1]:
            table.add_column(heading, no_wrap=True, min_width=20)
            table.add_column('pixels', justify='right', no_wrap=True)
            table.add_column('images', justify='right', no_wrap=True)
        for row in range(len(frequent)):
            cells = []
            for column in (frequent, rarest):
                if row < len(column):
                    i = column[row]
                    share = format_share(pixels[i] / pixels.sum())
                    cells += [
                        short_name(names[i], LONGEST_NAME),
                        share,
                        str(inspection.class_images[i]),
                    ]
            table.add_row(*cells)
        console.print(table)
    if absent and seen:
        more = f' and {len(absent) - ABSENT_SHOWN} more' if len(absent) > ABSENT_SHOWN else ''
        _say(
            console,
            f'never occur ({len(absent)}): {", ".join(absent[:ABSENT_SHOWN])}{more}',
        )


def print_problem(console: Console, problem: Problem) -> None:
    """Print a problem and the first of its files."""
    word, style = ('wrong', 'bold red') if problem.certain else ('look', 'bold yellow')
    _say(console, f'{word}: {problem.sentence}', style)
    for file in problem.files[:FILES_SHOWN]:
        _say(console, f'    {file}')
    if len(problem.files) > FILES_SHOWN:
        _say(console, f'    and {len(problem.files) - FILES_SHOWN} more')


def _say(console: Console, text: str, style: str | None = None) -> None:
    """Print text as it is: a name in brackets is no markup, a path is not broken."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def check_target(console: Console, target: Target, args: argparse.Namespace) -> bool:
    """Look at one data set and print what was found.

    Returns:
        Whether it is right.
    """
    from mmseg_escnet.datasets.contact_sheet import contact_sheet
    from mmseg_escnet.datasets.inspection import build_dataset, inspect_dataset
    from mmseg_escnet.datasets.inspection_problems import Problem, find_problems
    from mmseg_escnet.visualization import save_figure

    try:
        inspection = inspect_dataset(
            build_dataset(target.cfg),
            target.cfg.get('pipeline', ()),
            background_from=target.background_from,
            limit=args.limit,
            workers=args.workers,
            description=target.name,
        )
    except ESCNetError as error:
        console.rule(target.title, align='left')
        print_problem(console, Problem(str(error)))
        return False
    problems = find_problems(inspection, allow_partial=args.allow_partial)
    sheet, table = (args.out / f'{target.name}{suffix}' for suffix in ('.png', '.csv'))
    args.out.mkdir(parents=True, exist_ok=True)
    write_file(table, class_table(inspection))
    console.rule(target.title, align='left')
    print_inspection(console, inspection)
    print_classes(console, inspection)
    for problem in problems:
        print_problem(console, problem)
    if inspection.matching:
        save_figure(contact_sheet(inspection, target.title), sheet, dpi=110)
        _say(console, f'pictures in {sheet}, all classes in {table}')
    return not any(problem.certain for problem in problems)


def main(argv: list[str] | None = None) -> int:
    """Look at every data set.

    Returns:
        The exit status: 1 if something is wrong with one.

    Raises:
        ESCNetError: If an argument is out of range, a config does not exist or has no data set.
    """
    args = parse_args(argv)
    if args.workers < 0 or (args.limit is not None and args.limit < 1):
        raise ESCNetError(
            f'--workers {args.workers} --limit {args.limit} is out of range: give 0 or more '
            'processes, and at least one image.'
        )

    from mmengine.registry import init_default_scope

    init_default_scope('mmseg')
    console = Console()
    targets = find_targets(args)
    wrong = sum(not check_target(console, target, args) for target in targets)
    console.rule()
    noun = 'data set' if len(targets) == 1 else 'data sets'
    verdict = f'something is wrong with {wrong}' if wrong else 'nothing is wrong'
    _say(console, f'{len(targets)} {noun} looked at: {verdict}')
    return EXIT_WRONG if wrong else 0


if __name__ == '__main__':
    run_tool(main, interrupted='only what was printed was looked at; --limit N is faster')
