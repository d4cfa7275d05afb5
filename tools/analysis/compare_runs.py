"""Compare runs by their logs: curves of training, figures, and the classes that won and lost.

    mmseg-escnet compare work_dirs/escnet_vitb16_coco-stuff
    mmseg-escnet compare work_dirs/BASELINE work_dirs/CHANGED --out comparison

A RUN is a work dir of `mmseg-escnet train` or `test`, or one of the folders TIMESTAMP in it. Its
curve is all that was trained there, resumed or not; its figures and classes are of the newest
validation or test (TIMESTAMP/classes.json). Differences are those of the last run to the first.
Prints the tables, and writes them with a picture to OUT/comparison.md and OUT/comparison.png.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmseg_escnet.cli import make_parser, run_tool
from mmseg_escnet.colors import OKABE_ITO, QUIET
from mmseg_escnet.errors import ESCNetError, Problems, did_you_mean
from mmseg_escnet.files import write_file
from mmseg_escnet.tables import table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# of MMEngine's lines, what is neither a loss nor a metric
_NO_FIGURES = ('step', 'iter', 'epoch', 'time', 'data_time', 'memory', 'lr', 'base_lr')
# drawn by default: of each the first that was logged
_CURVES = (('loss',), ('base_lr', 'lr'), ('mIoU_gt', 'mIoU'), ('mIoU_seen',), ('mIoU_unseen',))
_WINDOWS = 20  # a curve of training is averaged over a part of it as long as this
_PANELS = 3  # in a row


@dataclass
class Run:
    """What the logs of a run contain.

    Attributes:
        name: Of its folder; the path where folders have one name.
        curves: Losses, settings and metrics: name -> step -> value.
        figures: Metrics of the newest validation or test, in percent.
        classes: Name -> its record in ``classes.json``.
        source: What figures and classes are of.
    """

    name: str
    curves: dict[str, dict[int, float]]
    figures: dict[str, float | None] = field(default_factory=dict)
    classes: dict[str, dict] = field(default_factory=dict)
    source: str = 'nothing: no validation or test was logged'


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('runs', nargs='+', metavar='RUN', help='work dirs, the one to compare with first')
    add('--out', type=Path, default=Path('work_dirs/comparison'), help='default: %(default)s')
    add('--classes', type=int, default=10, help='that won, and that lost (default: %(default)s)')
    add(
        '--curves',
        nargs='+',
        metavar='NAME',
        help='of scalars.json; default: loss, base_lr, mIoU_gt and others',
    )
    return parser.parse_args(argv)


# -- reading ---------------------------------------------------------------------------------------


def read_runs(paths: Sequence[str]) -> list[Run]:
    """Read the logs of several runs.

    Raises:
        ESCNetError: For all that are no runs, or given twice, or have a log that cannot be read.
    """
    counts = Counter(Path(path).resolve().name for path in paths)
    problems, runs = Problems(), []
    for path in paths:
        name = Path(path).resolve().name
        with problems:
            if paths.count(path) > 1:
                raise ESCNetError(f'The run {path} is given twice: give each once.')
            runs.append(_read_run(Path(path), name if counts[name] == 1 else path))
    problems.raise_all()
    return runs


def _read_run(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise ESCNetError(
            f'The run {folder} is not a folder: give the work dir of a training or a test.'
        )
    logs, reports = (
        sorted(folder.glob(f'*/{file}')) or sorted(folder.glob(file))
        for file in ('vis_data/scalars.json', 'classes.json')
    )
    if not logs and not reports:
        raise ESCNetError(
            f'{folder} has no log of a run (TIMESTAMP/vis_data/scalars.json or '
            'TIMESTAMP/classes.json): give the work dir of a training or a test.'
        )
    run = Run(name, {})
    for path in logs:
        _join(run, path)
    if reports:
        record = _read_json(reports[-1], reports[-1].read_text(encoding='utf-8'))
        try:
            run.classes = {one['name']: one for one in record['classes']}
            run.figures = dict(record['metrics'])
        except (KeyError, TypeError) as error:
            raise ESCNetError(
                f'{reports[-1]} is not a report of mmseg-escnet test: move it away.'
            ) from error
        run.source = str(reports[-1])
    return run


def _join(run: Run, path: Path) -> None:
    """Add a log to those before it, which go on from where it began if the training was resumed."""
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(_read_json(f'Line {number} of {path}', line))
        except ESCNetError:
            if number < len(lines):  # the last one may be cut: the run was killed
                raise
    begin = min((entry['step'] for entry in entries if 'loss' in entry), default=math.inf)
    for points in run.curves.values():
        for step in [step for step in points if step >= begin]:
            del points[step]
    for entry in entries:
        numbers = {k: v for k, v in entry.items() if isinstance(v, (int, float))}
        for key, value in numbers.items():
            run.curves.setdefault(key, {})[entry['step']] = value
        if 'loss' not in entry:
            run.figures = {k: v for k, v in numbers.items() if k not in _NO_FIGURES}
            run.source = f'{path}, step {entry["step"]}'


def _read_json(where: object, text: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ESCNetError(f'{where} is not a JSON object: the log is damaged, so move it away.')
    return value


# -- comparing -------------------------------------------------------------------------------------


def common_classes(runs: Sequence[Run]) -> list[str]:
    """Names of the classes that all runs have and find in the ground truth, by their difference."""
    first, last = runs[0].classes, runs[-1].classes
    names = [
        name
        for name in first
        if all(run.classes.get(name, {}).get('iou') is not None for run in runs)
    ]
    return sorted(names, key=lambda name: first[name]['iou'] - last[name]['iou'])


def changed(runs: Sequence[Run], names: Sequence[str], most: int) -> list[str]:
    """Of the common classes those that won the most, and those that lost the most, in order."""
    difference = [_iou(runs[-1], name) - _iou(runs[0], name) for name in names]
    won = [name for name, points in zip(names, difference, strict=True) if points > 0]
    lost = [name for name, points in zip(names, difference, strict=True) if points < 0]
    return won[:most] + lost[max(0, len(lost) - most) :]


def describe(runs: Sequence[Run], most: int) -> str:
    """The figures side by side, and the classes that changed the most, in Markdown."""
    heads = [run.name for run in runs]
    is_pair = len(runs) > 1
    names = common_classes(runs) if is_pair else []
    rows = []
    for key in dict.fromkeys(key for run in runs for key in run.figures):
        rows.append([key, *(run.figures.get(key) for run in runs)])
    if names:
        means = [float(np.mean([_iou(run, name) for name in names])) for run in runs]
        rows.append([f'mean IoU of {len(names)} common classes', *means])
    rows.append(['steps trained', *(max(run.curves.get('loss', ()), default=None) for run in runs)])
    text = [_compared(['', *heads], rows, is_pair), '']
    text += [f'- {run.name}: {run.source}' for run in runs]
    if not is_pair:
        return '\n'.join(text)
    text.append('')
    without = [run.name for run in runs if not run.classes]
    if without:
        text.append(
            f'Classes are not compared: {", ".join(without)} has no classes.json, which '
            '`mmseg-escnet test` and each validation write.'
        )
        return '\n'.join(text)
    counts = ', '.join(f'{len(run.classes)} of {run.name}' for run in runs)
    text.append(f'{len(names)} classes have the same name in all runs and are labelled ({counts}).')
    if any(len({run.classes[name]['labelled'] for run in runs}) > 1 for name in names):
        text.append('Their labelled pixels differ: the runs were evaluated on different images.')
    shown = changed(runs, names, most)
    if shown:
        rows = [[_marked(runs, name), *(_iou(run, name) for run in runs)] for name in shown]
        text += ['', _compared(['IoU (%)', *heads], rows, True)]
    if any(_marked(runs, name) != name for name in shown):
        text += ['', r'\* without masks in training']
    return '\n'.join(text)


def _compared(heads: list[str], rows: Iterable[list], is_pair: bool) -> str:
    cells = []
    for label, *values in rows:
        if is_pair:
            has_both = None not in (values[0], values[-1])
            values.append(f'{values[-1] - values[0]:+.4g}' if has_both else None)
        texts = [f'{v:.4g}' if isinstance(v, float) else '-' if v is None else v for v in values]
        cells.append([label.replace('|', '/'), *texts])
    heads = [*heads, 'difference'] if is_pair else heads
    return table(heads, cells, markdown=True, align='l' + 'r' * (len(heads) - 1))


def _iou(run: Run, name: str) -> float:
    return run.classes[name]['iou']


def _marked(runs: Sequence[Run], name: str) -> str:
    return name + (' *' if any(run.classes[name]['seen'] is False for run in runs) else '')


# -- drawing ---------------------------------------------------------------------------------------


def choose_curves(runs: Sequence[Run], wanted: Sequence[str] | None) -> list[str]:
    """Names of the curves to draw.

    Raises:
        ESCNetError: If no run has a wanted one.
    """
    known = {key for run in runs for key in run.curves} - {'step'}
    for name in wanted or ():
        if name not in known:
            raise ESCNetError(f'No run logged {name!r}: {did_you_mean(name, known)}')
    first = (next((name for name in names if name in known), None) for names in _CURVES)
    return list(wanted or filter(None, first))


def draw(runs: Sequence[Run], curves: Sequence[str], most: int) -> Figure | None:
    """A panel for each curve, and the classes that changed; None if there is neither."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from mmseg_escnet.visualization.figure_files import name_ticks
    from mmseg_escnet.vocabulary import display_names

    names = changed(runs, common_classes(runs), most) if len(runs) > 1 else []
    rows = math.ceil(len(curves) / _PANELS)
    heights = [2.3 * rows + 0.4] * bool(curves) + [0.24 * len(names) + 1.1] * bool(names)
    if not heights:
        return None
    figure = Figure(figsize=(10, sum(heights)), layout='constrained')
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if curves:
        part = parts.pop(0)
        panels = part.subplots(rows, min(_PANELS, len(curves)), squeeze=False).ravel()
        for axes in panels[len(curves) :]:
            axes.remove()
        for axes, name in zip(panels, curves, strict=False):
            for number, run in enumerate(runs):
                _plot(axes, run, name, _color(number))
            _tidy(axes, name)
            axes.set_xlabel('step', fontsize=8)
        lines = {
            run.name: Line2D([], [], color=_color(number))
            for number, run in enumerate(runs)
            if set(curves) & set(run.curves)
        }
        style = dict(loc='outside upper left', ncols=3, fontsize=8, frameon=False)
        part.legend(lines.values(), lines.keys(), **style)
    if names:
        axes = parts.pop().subplots()
        points = [_iou(runs[-1], name) - _iou(runs[0], name) for name in names]
        bars = axes.barh(range(len(names)), points, color=[OKABE_ITO[p > 0] for p in points])
        labels = [f'{_iou(runs[0], n):.1f} → {_iou(runs[-1], n):.1f}' for n in names]
        axes.bar_label(bars, labels, padding=3, fontsize=7, color=QUIET)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        title = f'IoU by class, {runs[-1].name} less {runs[0].name} (points)'
        if any(_marked(runs, name) != name for name in names):
            title += '; * without masks in training'
        _tidy(axes, title)
        marks = [_marked(runs, name)[len(name) :] for name in names]
        ticks = [name + mark for name, mark in zip(display_names(names), marks, strict=True)]
        name_ticks(axes.yaxis, ticks, fontsize=8)
    return figure


def _plot(axes: Axes, run: Run, name: str, color: str) -> None:
    points = sorted(run.curves.get(name, {}).items())
    if not points:
        return
    steps, values = np.array(points).T
    window = max(1, len(values) // _WINDOWS) if 'loss' in name else 1
    if window > 1:
        axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.25)
        steps = steps[window - 1 :]
        values = np.convolve(values, np.full(window, 1 / window), 'valid')
    axes.plot(steps, values, color=color, marker='o' if len(values) <= 12 else None, markersize=3)


def _color(number: int) -> str:
    return OKABE_ITO[(number + 1) % len(OKABE_ITO)]


def _tidy(axes: Axes, title: str) -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(color='#e6e7ea')
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=9, loc='left', parse_math=False)


def main(argv: list[str] | None = None) -> None:
    """Print the tables; write the page and its picture."""
    args = parse_args(argv)
    runs = read_runs(args.runs)
    curves = choose_curves(runs, args.curves)
    text = describe(runs, args.classes)
    print(text)
    figure = draw(runs, curves, args.classes)
    page = f'# Comparison of {", ".join(run.name for run in runs)}\n\n{text}\n'
    if figure is not None:
        from mmseg_escnet.visualization.figure_files import save_figure

        save_figure(figure, args.out / 'comparison.png')
        page += '\n![Curves, and the classes that changed the most](comparison.png)\n'
    write_file(args.out / 'comparison.md', page.encode())
    print(f'\npage with the picture: {args.out / "comparison.md"}')


if __name__ == '__main__':
    run_tool(main)
