"""What an evaluation found class by class, and what the worst classes are taken for, as files.

Shapes: K classes; (K, K + 1) of a confusion matrix, see :mod:`.confusion`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mmengine import dist
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..colors import INK, QUIET
from ..files import write_file
from ..visualization.figure_files import name_ticks, save_figure
from ..vocabulary import display_names
from .confusion import areas_of
from .open_vocab_iou_metric import OpenVocabIoUMetric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES_FILE, CONFUSION_FILE = 'classes.json', 'confusion.png'
NO_CLASS = '(no class)'
_ROWS, _COLUMNS = 15, 16  # of the figure


@HOOKS.register_module()
class ClassReportHook(Hook):
    """Write :func:`write_report` beside the log after each validation and each test (ours)."""

    priority = 'LOW'  # after MMEngine has logged the metrics

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._write(runner, runner.val_loop.evaluator, metrics)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._write(runner, runner.test_loop.evaluator, metrics)

    @staticmethod
    @dist.master_only
    def _write(runner: Runner, evaluator: Evaluator, metrics: dict | None) -> None:
        for path in write_report(evaluator, metrics or {}, runner.log_dir):
            runner.logger.info(f'class by class: {path}')


def write_report(
    evaluator: Evaluator, metrics: Mapping[str, object], folder: str | Path
) -> list[Path]:
    """Write ``classes.json`` and ``confusion.png``, replacing earlier ones.

    Args:
        evaluator: After its ``evaluate``. Of several :class:`.OpenVocabIoUMetric` the first is
            written.
        metrics: What it returned.
        folder: Where to.

    Returns:
        The files; none if there is no such metric, or it counted nothing.

    Raises:
        ESCNetError: If they cannot be written.
    """
    for metric in evaluator.metrics:
        if isinstance(metric, OpenVocabIoUMetric) and metric.confusion is not None:
            break
    else:
        return []
    classes = class_records(metric)
    if not any(one['labelled'] for one in classes):
        return []
    figures = {k: _number(v) for k, v in metrics.items() if isinstance(v, (int, float))}
    paths = [Path(folder) / CLASSES_FILE, Path(folder) / CONFUSION_FILE]
    record = dict(metrics=figures, classes=classes)
    write_file(paths[0], json.dumps(record, indent=1, ensure_ascii=False).encode())
    save_figure(confusion_figure(classes), paths[1])
    return paths


def class_records(metric: OpenVocabIoUMetric) -> list[dict]:
    """The K classes after an evaluation, in order.

    Returns:
        ``name``; ``seen``, see :meth:`.OpenVocabIoUMetric.seen_flags`; ``iou`` and ``accuracy`` in
        percent, None for a class absent from the ground truth; ``labelled`` and ``predicted``
        pixels; ``taken_for``, pixels with its label by the other classes they are predicted as, the
        most first.
    """
    names = metric.dataset_meta['classes']
    intersect, _, predicted, labelled = (area.tolist() for area in areas_of(metric.confusion))
    iou, _ = metric.class_iou([metric.confusion])
    records = []
    for i, seen in enumerate(metric.seen_flags()):
        row = metric.confusion[i].numpy()
        order = np.argsort(-row, kind='stable')[: np.count_nonzero(row)].tolist()
        records.append(
            dict(
                name=names[i],
                seen=seen,
                iou=_number(iou[i]),
                accuracy=_number(100 * intersect[i] / labelled[i]) if labelled[i] else None,
                labelled=labelled[i],
                predicted=predicted[i],
                taken_for={[*names, NO_CLASS][j]: int(row[j]) for j in order if j != i},
            )
        )
    return records


def confusion_figure(classes: Sequence[Mapping[str, object]]) -> Figure:
    """Draw what the worst classes are taken for, in percent of their labelled pixels.

    Rows are the 15 classes in the ground truth with the lowest IoU; columns what their pixels are
    predicted as, with what each of them is most often taken for.

    Args:
        classes: From :func:`class_records`; at least one is labelled.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    present = [one for one in classes if one['labelled']]
    worst = sorted(present, key=lambda one: (one['iou'], -one['labelled']))[:_ROWS]
    weights: Counter[str] = Counter()
    for one in worst:
        for place, (name, pixels) in enumerate(one['taken_for'].items()):
            weights[name] = max(weights[name], pixels / one['labelled'] + (place == 0))
    columns = [name for name, _ in weights.most_common(_COLUMNS)]
    wrong = [[one['taken_for'].get(name, 0) / one['labelled'] for name in columns] for one in worst]
    wrong = 100 * np.reshape(wrong, (len(worst), len(columns)))
    right = np.array([[one['accuracy']] for one in worst])
    rest = np.clip(100 - right - wrong.sum(axis=1, keepdims=True), 0, None)
    values = np.concatenate([right, wrong, rest], axis=1)
    colors = colormaps['Oranges'](values / 100)
    colors[:, 0] = colormaps['Blues'](right[:, 0] / 100)

    size = (3.4 + 0.42 * values.shape[1], 2.4 + 0.3 * len(worst))
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots()
    axes.imshow(colors, aspect='auto')
    for row, column in np.argwhere(values >= 0.5):
        ink = 'white' if values[row, column] > 60 else INK
        style = dict(ha='center', va='center', fontsize=7.5, color=ink)
        axes.text(column, row, f'{values[row, column]:.0f}', **style)
    rows = [
        f'{name}{" *" if one["seen"] is False else ""}  {one["iou"]:.1f}'
        for name, one in zip(display_names([one['name'] for one in worst]), worst, strict=True)
    ]
    name_ticks(axes.yaxis, rows, fontsize=8)
    axes.xaxis.tick_top()
    heads = ['itself', *display_names(columns), 'others']
    name_ticks(axes.xaxis, heads, fontsize=8, rotation=55, ha='left', rotation_mode='anchor')
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(values.shape[1] - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(worst) - 1) + 0.5, minor=True)
    axes.grid(which='minor', color='white', linewidth=1.5)
    axes.tick_params(which='minor', length=0)
    axes.spines[:].set_visible(False)
    note = (
        f'The {len(worst)} of {len(present)} classes in the ground truth with the lowest IoU (the '
        'number\nbehind the name), and what their pixels are predicted as, in percent of each row.'
    )
    if any(one['seen'] is False for one in worst):
        note += '\nA star marks classes without masks in training.'
    axes.set_xlabel(note, fontsize=8, color=QUIET, loc='left')
    return figure


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 2)
