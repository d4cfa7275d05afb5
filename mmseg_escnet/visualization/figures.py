"""Figures of a training run and of a study; nothing is shown, saved or remembered here.

Shapes: H x W pixels, N classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from ..errors import ESCNetError
from ..vocabulary import Vocabulary, cut
from .panels import overlay_labels

# Okabe and Ito's colours, which the colour-blind can tell apart
_COLORS = ('#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00')
_QUIET = '#6b7078'
_TITLE, _LABEL, _SMALL = 10, 8.5, 7.5  # font sizes
_MOST_LEGEND_ENTRIES = 12
_MOST_MARKERS = 60  # with more points than that a curve is a line alone


def curve_figure(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draw training curves, a small panel each, with the last value beside its title.

    Args:
        curves: Name -> points (step, value).

    Raises:
        ESCNetError: If there is no curve.
    """
    _require(curves, 'curve')
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(3.1 * columns, 2.1 * rows + 0.1), layout='constrained')
    grid = figure.add_gridspec(rows, columns)
    for number, (name, points) in enumerate(curves.items()):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        _tidy(axes, grid='both')
        axes.set_title(cut(name), fontsize=_TITLE, loc='left')
        if number + columns >= len(curves):
            axes.set_xlabel('step', fontsize=_LABEL)
        if not points:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, 'no values', transform=axes.transAxes, ha='center', color=_QUIET)
            continue
        steps, values = np.array(points, dtype=float).T
        marker = '.' if len(values) <= _MOST_MARKERS else ''
        axes.plot(steps, values, color=_COLORS[0], linewidth=1.3, marker=marker, markersize=5)
        axes.set_title(f'{values[-1]:.4g}', fontsize=_LABEL, loc='right', color=_QUIET)
    return _finish(figure)


def class_bars_figure(
    *,
    names: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    scores: Mapping[str, np.ndarray],
) -> Figure:
    """Draw the IoU of each class, a panel for each group, best class of the first method on top.

    Args:
        names: The N class names.
        groups: Title -> names of its classes. The figure grows with their number.
        scores: Method -> (N,) IoU in %; NaN where a class does not occur, which is no zero: it
            is written ``absent``, goes to the bottom, and is not counted in the mean.

    Raises:
        ESCNetError: If there is nothing to draw, a group holds a class that is not in ``names``,
            or the scores of a method are not N.
    """
    _require(groups, 'group')
    _require(scores, 'method')
    class_ids = {name: index for index, name in enumerate(names)}
    for title, members in groups.items():
        _require(members, f'class in group {title!r}')
        if unknown := [name for name in members if name not in class_ids]:
            raise ESCNetError(
                f'Group {title!r} holds {unknown}, which are not among the {len(names)} class '
                'names: write them as they stand there.'
            )
    scores = {method: np.asarray(values, dtype=float) for method, values in scores.items()}
    for method, values in scores.items():
        if values.shape != (len(names),):
            raise ESCNetError(
                f'The scores of {method!r} have the shape {values.shape} for {len(names)} class '
                'names: give one for each, NaN where a class does not occur.'
            )
    row_height = 0.1 + 0.12 * len(scores)  # inches, for figures that can be read beside each bar
    sizes = [row_height * len(members) + 0.75 for members in groups.values()]
    figure = Figure(figsize=(8, sum(sizes)), layout='constrained')
    panels = figure.subplots(len(groups), squeeze=False, sharex=True, height_ratios=sizes)[:, 0]
    for axes, (title, members) in zip(panels, groups.items(), strict=True):
        ids = np.array([class_ids[name] for name in members])
        ids = ids[np.argsort(-next(iter(scores.values()))[ids], kind='stable')]  # NaN last
        _draw_bars(axes, {method: values[ids] for method, values in scores.items()})
        axes.set_yticks(range(len(ids)), [cut(names[i]) for i in ids], fontsize=_LABEL - 0.5)
        axes.set_title(f'{title} ({len(ids)})', fontsize=_TITLE, loc='left', pad=19)
    drawn = np.concatenate(list(scores.values()))
    highest = np.nanmax(drawn) if np.isfinite(drawn).any() else 0
    panels[-1].set_xlim(0, max(1.1 * highest, 1))
    panels[-1].set_xlabel('IoU (%)', fontsize=_LABEL)
    return _finish(figure)


def scenes_figure(
    *,
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Mapping[str, Sequence[np.ndarray]],
    vocabulary: Vocabulary,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Draw scenes one below the other: image, ground truth, a column for each method, legend.

    The legend of a scene names the classes in its maps, those that cover most first; it stops
    after twelve.

    Args:
        images: (H, W, 3) uint8, RGB; sizes may differ.
        truths: (H, W) class ids of the ground truth.
        predictions: Method -> (H, W) predicted class ids of every scene.
        vocabulary: Names and colours of the classes.
        titles: What is written beside each scene.

    Raises:
        ESCNetError: If there is no scene, or something is missing or of another size for one.
    """
    _require(images, 'scene')
    columns = {'ground truth': truths, **predictions}
    if 'ground truth' in predictions:
        raise ESCNetError("A method cannot be called 'ground truth': give it another name.")
    for column, items in (*columns.items(), ('titles', titles)):
        if items is not None and len(items) != len(images):
            raise ESCNetError(f'{column!r} has {len(items)} items for {len(images)} scenes.')
    legends = [
        _legend_entries([maps[scene] for maps in columns.values()], vocabulary)
        for scene in range(len(images))
    ]
    width = 2.3
    heights = [
        max(width * image.shape[0] / image.shape[1], 0.155 * len(entries)) + 0.08
        for image, entries in zip(images, legends, strict=True)
    ]
    figure = Figure(figsize=(width * (len(columns) + 1) + 1.7, sum(heights) + 0.3))
    figure.set_layout_engine('constrained', w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
    grid = figure.subplots(
        len(images),
        len(columns) + 2,
        squeeze=False,
        height_ratios=heights,
        width_ratios=[width] * (len(columns) + 1) + [1.6],
    )
    for scene, (axes, image) in enumerate(zip(grid, images, strict=True)):
        axes[0].imshow(image)
        for panel, (column, maps) in zip(axes[1:-1], columns.items(), strict=True):
            if maps[scene].shape != image.shape[:2]:
                raise ESCNetError(
                    f'Scene {scene}: {column!r} has the size {maps[scene].shape}, the image '
                    f'{image.shape[:2]}: resize one to the other.'
                )
            panel.imshow(overlay_labels(image, maps[scene], vocabulary), interpolation='nearest')
        axes[-1].legend(
            handles=legends[scene],
            loc='center left',
            bbox_to_anchor=(-0.05, 0.5),
            fontsize=_SMALL,
            frameon=False,
            handlelength=1.1,
            handleheight=1.1,
            labelspacing=0.35,
        )
        if titles is not None:
            axes[0].set_ylabel(cut(titles[scene]), fontsize=_LABEL, color=_QUIET)
        for panel in axes:
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
    for panel, column in zip(grid[0], ('image', *columns), strict=False):
        panel.set_title(cut(column), fontsize=_TITLE)
    return _finish(figure)


def ranges_figure(
    *, rows: Sequence[tuple[str, Sequence[float]]], baseline: str, metric: str
) -> Figure:
    """Draw the results of a study: each seed, their mean, and their standard deviation.

    Args:
        rows: Variant -> values by seed. A variant without values, or with NaN alone, is drawn as
            not measured.
        baseline: The variant whose mean is a vertical line, if it is among them.
        metric: What the values are, with the unit.

    Raises:
        ESCNetError: If there is no variant.
    """
    _require(rows, 'variant')
    figure = Figure(figsize=(8, 0.34 * len(rows) + 1.15), layout='constrained')
    axes = figure.subplots()
    _tidy(axes, grid='x')
    margin = axes.get_yaxis_transform()  # x in shares of the panel, y in rows
    for number, (variant, values) in enumerate(rows):
        values = np.array([value for value in values if math.isfinite(value)], dtype=float)
        color = _QUIET if variant == baseline else _COLORS[0]
        if len(values) == 0:
            summary = 'not measured'
        else:
            mean, summary = values.mean(), f'{values.mean():.2f}'
            if len(values) > 1:
                spread = values.std(ddof=1)
                summary += f' ± {spread:.2f}'
                axes.hlines(number, mean - spread, mean + spread, color, linewidth=5, alpha=0.25)
            if variant == baseline:
                axes.axvline(mean, color=_QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            axes.plot(values, [number] * len(values), 'o', color=color, markersize=4.5, alpha=0.65)
            axes.plot(mean, number, '|', color=color, markersize=14, markeredgewidth=2)
        axes.text(1.02, number, summary, transform=margin, va='center', fontsize=_LABEL)
    axes.set_yticks(range(len(rows)), [cut(name, 48) for name, _ in rows], fontsize=_LABEL)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.06)
    axes.set_xlabel(metric, fontsize=_LABEL)
    style = dict(color=_QUIET, linestyle='none')
    axes.legend(
        handles=[
            Line2D([], [], marker='o', markersize=4.5, alpha=0.65, label='one seed', **style),
            Line2D([], [], marker='|', markersize=11, markeredgewidth=2, label='mean', **style),
            Line2D([], [], color=_QUIET, linewidth=5, alpha=0.25, label='± standard deviation'),
            Line2D([], [], color=_QUIET, linewidth=1, linestyle=(0, (4, 3)), label='baseline'),
        ],
        loc='lower left',
        bbox_to_anchor=(0, 1),
        ncols=4,
        fontsize=_SMALL,
        frameon=False,
        borderaxespad=0.2,
        handlelength=1.6,
    )
    return _finish(figure)


def _draw_bars(axes: Axes, scores: Mapping[str, np.ndarray]) -> None:
    """Draw a bar for each class and method, in the order given from the top."""
    _tidy(axes, grid='x')
    thickness = 0.8 / len(scores)
    handles = []
    for number, ((method, values), color) in enumerate(zip(scores.items(), cycle(_COLORS))):
        positions = np.arange(len(values)) - 0.4 + (number + 0.5) * thickness
        axes.barh(positions, values, height=thickness, color=color)
        for position, value in zip(positions, values, strict=True):
            absent = math.isnan(value)
            axes.annotate(
                'absent' if absent else f'{value:.1f}',
                (0 if absent else value, position),
                xytext=(3, 0),
                textcoords='offset points',
                va='center_baseline',
                fontsize=_SMALL - 0.5,
                color=_QUIET,
                style='italic' if absent else 'normal',
            )
        present = values[np.isfinite(values)]
        mean = f'mean {present.mean():.1f}' if len(present) else 'no class occurs'
        handles.append(Patch(color=color, label=f'{cut(method)}: {mean}'))
    axes.set_ylim(len(next(iter(scores.values()))) - 0.4, -0.6)
    axes.tick_params(axis='y', length=0)
    axes.tick_params(axis='x', labelbottom=True)
    axes.legend(
        handles=handles,
        loc='lower left',
        bbox_to_anchor=(0, 1),
        ncols=4,
        fontsize=_SMALL,
        frameon=False,
        borderaxespad=0.2,
        handlelength=1.1,
        handleheight=1.1,
    )


def _legend_entries(maps: Sequence[np.ndarray], vocabulary: Vocabulary) -> list[Patch]:
    """The classes in some maps by the area they cover, and the pixels of no class."""
    ids, counts = np.unique(np.concatenate([labels.ravel() for labels in maps]), return_counts=True)
    ids = ids[np.argsort(-counts, kind='stable')]
    known = [i for i in ids if 0 <= i < len(vocabulary)]
    entries = [
        Patch(facecolor=np.array(vocabulary.palette[i]) / 255, label=cut(vocabulary.names[i]))
        for i in known[:_MOST_LEGEND_ENTRIES]
    ]
    if len(known) > _MOST_LEGEND_ENTRIES:
        entries.append(Patch(alpha=0, label=f'... {len(known) - _MOST_LEGEND_ENTRIES} more'))
    if len(known) < len(ids):
        entries.append(Patch(facecolor='black', label='(not labelled)'))
    return entries


def _require(items: Sequence | Mapping, what: str) -> None:
    if len(items) == 0:
        raise ESCNetError(f'There is no {what} to draw: give at least one.')


def _tidy(axes: Axes, *, grid: str) -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color('#b9bdc3')
    axes.tick_params(labelsize=_SMALL, color='#b9bdc3')
    axes.grid(axis=grid, color='#e6e7ea', linewidth=0.7)
    axes.set_axisbelow(True)


def _finish(figure: Figure) -> Figure:
    """Keep the texts as they are: a name with two dollar signs is no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure
