"""Figures of a training and of a study on the toy world."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..colors import OKABE_ITO, QUIET

_COLORS = (OKABE_ITO[1], '#e69f00')


def curves_figure(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draw a panel for each curve, averaged over ten iterations.

    Args:
        curves: Title -> value at each iteration.
    """
    figure = Figure(figsize=(3.5 * len(curves), 2.4), layout='constrained')
    for axes, (title, values) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        width = min(10, len(values))
        ends = range(width, len(values) + 1, width)
        axes.plot(ends, [np.mean(values[end - width : end]) for end in ends], color=_COLORS[0])
        _tidy(axes, 'both', title)
        axes.set_xlabel(f'iteration (means of {width})', fontsize=8)
    return figure


def classes_figure(
    names: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    scores: Mapping[str, np.ndarray],
) -> Figure:
    """Draw the IoU of each class in a panel per group, sorted by the first method.

    Args:
        names: The N class names.
        groups: Title -> class names.
        scores: Method -> (N,) IoU in %; classes with NaN are left out.
    """
    first = next(iter(scores.values()))
    shown = {}
    for title, members in groups.items():
        ids = [names.index(name) for name in members if np.isfinite(first[names.index(name)])]
        if ids:
            shown[title] = sorted(ids, key=lambda i: -first[i])
    heights = [0.3 * len(ids) + 0.6 for ids in shown.values()]
    figure = Figure(figsize=(8, sum(heights) + 0.6), layout='constrained')
    panels = figure.subplots(len(shown), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    thickness = 0.8 / len(scores)
    for axes, (title, ids) in zip(panels, shown.items(), strict=True):
        for row, (method, color) in enumerate(zip(scores, _COLORS, strict=False)):
            positions = np.arange(len(ids)) - 0.4 + (row + 0.5) * thickness
            values = scores[method][ids]
            bars = axes.barh(
                positions,
                values,
                thickness,
                color=color,
                label=f'{method}: mean {values.mean():.1f}',
            )
            axes.bar_label(bars, fmt='%.1f', padding=3, fontsize=7, color=QUIET)
        axes.set_yticks(range(len(ids)), [names[i] for i in ids])
        axes.set_ylim(len(ids) - 0.4, -0.6)
        # above the bars, which may fill the panel
        axes.legend(loc='lower right', bbox_to_anchor=(1, 1), ncols=2, fontsize=7.5, frameon=False)
        _tidy(axes, 'x', title)
    panels[-1].set_xlabel('IoU (%)', fontsize=8)
    return figure


def study_figure(rows: Mapping[str, Sequence[float]], *, baseline: str, metric: str) -> Figure:
    """Draw the results of a study: each seed, their mean, and their standard deviation.

    Args:
        rows: Variant -> value of each seed.
        baseline: The variant whose mean is drawn as a vertical line.
        metric: Label of the values, with the unit.
    """
    figure = Figure(figsize=(8, 0.34 * len(rows) + 1.15), layout='constrained')
    axes = figure.subplots()
    once = dict(seed='one seed', mean='mean', spread='± standard deviation')  # for the legend
    for number, (variant, values) in enumerate(rows.items()):
        color = QUIET if variant == baseline else _COLORS[0]
        mean, summary = np.mean(values), f'{np.mean(values):.2f}'
        if len(values) > 1:
            spread = np.std(values, ddof=1)
            summary += f' ± {spread:.2f}'
            ends = (mean - spread, mean + spread)
            label = once.pop('spread', None)
            axes.hlines(number, *ends, color, linewidth=5, alpha=0.25, label=label)
        if variant == baseline:
            axes.axvline(mean, color=QUIET, linewidth=1, linestyle='--', label='baseline')
        points = [number] * len(values)
        axes.plot(values, points, 'o', color=color, alpha=0.65, label=once.pop('seed', None))
        axes.plot(mean, number, '|', color=color, markersize=14, label=once.pop('mean', None))
        axes.text(1.02, number, summary, transform=axes.get_yaxis_transform(), va='center')
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=4, fontsize=7.5, frameon=False)
    _tidy(axes, 'x')
    axes.set_xlabel(metric, fontsize=8)
    return figure


def _tidy(axes: Axes, grid: str, title: str = '') -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(labelsize=8, labelbottom=True)
    axes.grid(axis=grid, color='#e6e7ea')
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, loc='left')
