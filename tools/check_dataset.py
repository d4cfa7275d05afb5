"""Inspect prepared data sets before spending hours on them.

    mmseg-escnet check dataset configs/escnet/escnet_vitb16_coco-stuff.py

CONFIG is a whole config or one of configs/_base_/datasets. Every image and label map is read as in
training. For each data set, this prints its contents and its problems, and writes

    OUT/CONFIG_PHASE.png     ten images with their label maps, for visual inspection
    OUT/CONFIG_PHASE.csv     pixels and images of every class

The exit status is 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mmseg_escnet.cli import add_cfg_options, make_parser, run_tool
from mmseg_escnet.config import check_config_path, read_config
from mmseg_escnet.consistency import check_ignore_index
from mmseg_escnet.datasets.parallel import default_workers
from mmseg_escnet.errors import ESCNetError, Problems, first_few
from mmseg_escnet.files import encode_png, write_file
from mmseg_escnet.tables import table
from mmseg_escnet.vocabulary import display_names

if TYPE_CHECKING:
    from mmseg_escnet.datasets.inspection import Inspection, LabelIds
    from mmseg_escnet.datasets.inspection_problems import Problem

PHASES = ('train', 'val', 'test')
EXIT_WRONG = 1
LONGEST_NAME = 22  # characters
MOST_CLASSES, MOST_ABSENT, MOST_FILES = 8, 12, 3
NUM_PICTURES, COLUMNS, LONGER_SIDE, GAP = 10, 2, 480, 16  # of the sheet, in pixels
OUTSIDE_NAME, OUTSIDE_COLOR = '(id of no class)', (255, 0, 255)
# Settings of how a data set is fed to a model, which do not make it a different one
NOT_THE_DATA = ('pipeline', 'test_mode', 'lazy_init', 'serialize_data', 'max_refetch')


@dataclass
class Target:
    """A data set to inspect.

    Attributes:
        name: Of its files in OUT.
        cfg: Its config.
        background_from: First of the classes evaluated as background, see ``OpenVocabIoUMetric``.
        users: Config file -> phases that use it.
        conflicts: What other settings of these contradict it.
    """

    name: str
    cfg: dict
    background_from: int | None = None
    users: dict[str, list[str]] = field(default_factory=dict)
    conflicts: Problems = field(default_factory=Problems)

    @property
    def title(self) -> str:
        """The first config that uses it, its phases there, and how many others do."""
        config, phases = next(iter(self.users.items()))
        others = len(self.users) - 1
        more = f', and {others} other config{"s" if others > 1 else ""}' if others else ''
        return f'{config}: {", ".join(phases)}{more}'


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('configs', metavar='CONFIG', nargs='+', help='config files')
    parser.add_argument(
        '--phase', nargs='+', choices=PHASES, default=list(PHASES), help='default: all'
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/check_dataset'))
    parser.add_argument(
        '--limit', type=int, metavar='N', help='inspect N evenly spaced images per data set'
    )
    parser.add_argument('--workers', type=int, default=default_workers(), help='processes')
    parser.add_argument(
        '--allow-partial', action='store_true', help='accept fewer images than published'
    )
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if args.workers < 0 or (args.limit is not None and args.limit < 1):
        raise ESCNetError(
            f'--workers {args.workers} --limit {args.limit} is out of range: give 0 or more '
            'processes and at least one image.'
        )
    return args


def find_targets(args: argparse.Namespace) -> list[Target]:
    """List the data sets of all configs, without duplicates.

    Raises:
        ESCNetError: If a config does not exist or has no data set.
    """
    targets: dict[str, Target] = {}
    names = Counter()
    for config in args.configs:
        cfg = read_config(config, args.cfg_options)
        found = False
        for phase in [phase for phase in PHASES if phase in args.phase]:
            evaluators = cfg.get(f'{phase}_evaluator') or []
            evaluators = [evaluators] if isinstance(evaluators, dict) else evaluators
            starts = (evaluator.get('background_from') for evaluator in evaluators)
            background_from = next(filter(None, starts), None)
            for dataset in _leaves((cfg.get(f'{phase}_dataloader') or {}).get('dataset')):
                found = True
                data = {key: value for key, value in dataset.items() if key not in NOT_THE_DATA}
                key = json.dumps([data, background_from], sort_keys=True, default=str)
                if key not in targets:
                    name = f'{Path(config).stem}_{phase}'
                    names[name] += 1
                    suffix = f'_{names[name]}' if names[name] > 1 else ''
                    targets[key] = Target(f'{name}{suffix}', dataset, background_from)
                phases = targets[key].users.setdefault(Path(config).name, [])
                if phase not in phases:
                    phases.append(phase)
                with targets[key].conflicts:
                    check_ignore_index(cfg, phase)
        if not found:
            raise ESCNetError(
                f'The config {config} has no data set for {", ".join(args.phase)}: give one with '
                'train_dataloader, val_dataloader or test_dataloader.'
            )
    return list(targets.values())


def _leaves(dataset: dict | Sequence[dict] | None) -> Iterator[dict]:
    """The data sets inside wrappers such as ConcatDataset and RepeatDataset."""
    if dataset is None:
        return
    if not isinstance(dataset, dict):
        for part in dataset:
            yield from _leaves(part)
    elif inner := dataset.get('datasets', dataset.get('dataset')):
        yield from _leaves(inner)
    else:
        yield dataset


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


def contact_sheet(inspection: Inspection) -> Image.Image:
    """Ten evenly spaced images, each beside its label map and a legend.

    Ignored pixels are striped in grey; pixels whose id belongs to no class are magenta.

    Args:
        inspection: Of a data set with at least one image that matches its label map.
    """
    from mmseg_escnet.datasets.inspection import OUTSIDE, spread
    from mmseg_escnet.visualization import draw_comparison

    names = [*inspection.labels.names, OUTSIDE_NAME]
    palette = [*inspection.palette, OUTSIDE_COLOR]
    class_ids = inspection.labels.table % 65_536  # IGNORED becomes 65535, which is not a class
    class_ids[inspection.labels.table == OUTSIDE] = len(names) - 1
    pictures = []
    for number in spread(len(inspection.matching), NUM_PICTURES):
        reading = inspection.matching[number]
        image, ids = inspection.load(reading[:2])
        height, width = ids.shape
        scale = min(LONGER_SIDE / max(height, width), 1)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = Image.fromarray(np.ascontiguousarray(image[..., ::-1])).resize(size)
        labels = Image.fromarray(class_ids[ids].astype(np.uint16)).resize(
            size, Image.Resampling.NEAREST
        )
        title = f'{Path(reading.image).name} {width}x{height}'
        maps = {title: np.asarray(labels)}
        pictures.append(draw_comparison(np.asarray(image), maps, names=names, palette=palette))
    rows = [pictures[i : i + COLUMNS] for i in range(0, len(pictures), COLUMNS)]
    column = max(picture.width for picture in pictures) + GAP
    heights = [max(picture.height for picture in row) + GAP for row in rows]
    sheet = Image.new('RGB', (column * len(rows[0]), sum(heights)), 'white')
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            sheet.paste(picture, (j * column, sum(heights[:i])))
    return sheet


def print_inspection(inspection: Inspection) -> None:
    """Print the contents of a data set."""
    labels, num_files = inspection.labels, len(inspection.files)
    images, label_maps = zip(*inspection.files, strict=True)
    published = f' of {inspection.expected} published' if inspection.expected else ''
    part = 'all' if num_files == inspection.total else f'{num_files}, evenly spaced,'
    print(f'images      {inspection.total}{published}, {part} inspected; in {_folder(images)}')
    print(f'label maps  in {_folder(label_maps)}')
    if not inspection.readings:
        return
    bits = ' and '.join(map(str, sorted(inspection.bits)))
    zero = ' and 0 (reduce_zero_label)' if labels.reduce_zero_label else ''
    ids = _ranges(np.flatnonzero(inspection.id_pixels), labels)
    print(
        f'ids         {ids} in {bits} bits; {len(labels.names)} classes have {labels.first} to '
        f'{labels.last}, ignored: {labels.ignore_index}{zero}'
    )
    print(f'sizes       {_sizes(inspection)}')
    share = inspection.ignored_pixels / inspection.id_pixels.sum()
    print(f'ignored     {format_share(share)} of the pixels')
    print(f'classes     {np.count_nonzero(inspection.class_pixels)} of {len(labels.names)} occur')


def _folder(files: Iterable[str]) -> str:
    return os.path.commonpath([os.path.dirname(file) for file in files])


def _ranges(ids: np.ndarray, labels: LabelIds) -> str:
    """The lowest and the highest id, and the ids that usually mean unlabelled."""
    apart = [i for i in (255, 65535) if i in ids and i > labels.last]
    others = [i for i in ids.tolist() if i not in apart]
    ends = [' to '.join(map(str, dict.fromkeys((others[0], others[-1]))))] if others else []
    return ' and '.join([*ends, *map(str, apart)])


def _sizes(inspection: Inspection) -> str:
    (height, width), _ = inspection.image_sizes.most_common(1)[0]
    if len(inspection.image_sizes) == 1:
        return f'all {width}x{height}'
    heights, widths = zip(*inspection.image_sizes, strict=True)
    return (
        f'{min(widths)}x{min(heights)} to {max(widths)}x{max(heights)}, most often {width}x{height}'
    )


def format_share(share: float) -> str:
    """A share in %, with more digits if it is small."""
    if share == 0 or share >= 0.0995:
        return f'{100 * share:.0f} %'
    return f'{100 * share:.1f} %' if share >= 0.000_995 else '<0.1 %'


def print_classes(inspection: Inspection) -> None:
    """Print the most frequent, the rarest and the missing classes."""
    names = display_names(inspection.labels.names, LONGEST_NAME)
    pixels, total = inspection.class_pixels, inspection.class_pixels.sum()
    rows = [
        (names[i], format_share(pixels[i] / total), inspection.class_images[i])
        for i in np.argsort(-pixels, kind='stable')
        if pixels[i] > 0
    ]
    if not rows:
        return
    absent = [names[i] for i in np.flatnonzero(pixels == 0)]
    if len(rows) > 2 * MOST_CLASSES:
        rows[MOST_CLASSES:-MOST_CLASSES] = [('...', '', '')]
    print(table(['class', 'pixels', 'images'], rows, align='lrr'))
    if absent:
        print(f'never occur ({len(absent)}): {first_few(absent, MOST_ABSENT)}')


def print_problem(problem: Problem) -> None:
    """Print a problem and its first files."""
    print(f'{"wrong" if problem.certain else "look"}: {problem.sentence}')
    for file in problem.files[:MOST_FILES]:
        print(f'    {file}')
    if len(problem.files) > MOST_FILES:
        print(f'    and {len(problem.files) - MOST_FILES} more')


def check_target(target: Target, args: argparse.Namespace) -> bool:
    """Inspect one data set and print the results.

    Returns:
        Whether nothing is wrong with it.
    """
    from mmseg_escnet.datasets.inspection import build_dataset, inspect_dataset
    from mmseg_escnet.datasets.inspection_problems import Problem, find_problems

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
        print(f'\n== {target.title}')
        print_problem(Problem(str(error)))
        return False
    sheet, classes = (args.out / f'{target.name}{suffix}' for suffix in ('.png', '.csv'))
    write_file(classes, class_table(inspection))
    print(f'\n== {target.title}')
    print_inspection(inspection)
    print_classes(inspection)
    problems = [Problem(sentence) for sentence in target.conflicts.sentences]
    problems += find_problems(inspection, allow_partial=args.allow_partial)
    for problem in problems:
        print_problem(problem)
    if inspection.matching:
        write_file(sheet, encode_png(contact_sheet(inspection)))
        print(f'pictures in {sheet}, all classes in {classes}')
    return not any(problem.certain for problem in problems)


def main(argv: list[str] | None = None) -> int:
    """Inspect every data set.

    Returns:
        The exit status: 1 if something is wrong with one.

    Raises:
        ESCNetError: If an argument is out of range, a config does not exist or has no data set.
    """
    args = parse_args(argv)
    for config in args.configs:
        check_config_path(config)

    from mmengine.registry import init_default_scope

    from mmseg_escnet import components  # noqa: F401  explains what is missing

    init_default_scope('mmseg')
    targets = find_targets(args)
    wrong = sum(not check_target(target, args) for target in targets)
    noun = 'data set' if len(targets) == 1 else 'data sets'
    verdict = f'something is wrong with {wrong}' if wrong else 'nothing is wrong'
    print(f'\n{len(targets)} {noun} inspected: {verdict}')
    return EXIT_WRONG if wrong else 0


if __name__ == '__main__':
    run_tool(main, interrupted='data sets not printed were not inspected; --limit N is faster')
