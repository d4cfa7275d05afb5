"""Figure of what the ESC blocks do for one word of an image.

Shapes: h x w patch grid, K objects, T blocks.
"""

from collections.abc import Mapping
from itertools import cycle, islice

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

from ..colors import OKABE_ITO, QUIET
from ..vocabulary import cut
from .fonts import font_for

Arrays = Mapping[str, np.ndarray]  # by the names of :class:`.WordInside`
_HEAT, _CHANGE = 'viridis', 'RdBu_r'
_TITLE, _LABEL, _SMALL = 10, 8.5, 7.5  # font sizes
_EXTENT = (0, 1, 1, 0)  # of the picture and of the maps, whose pixels are patches
# inches
_PANEL, _GAP, _MARGIN = 2.1, 0.1, 0.1
_HEADING, _PANEL_TITLE, _RANGE = 0.55, 0.28, 0.3
_FLATTEST = 0.45  # height by width of a panel, and width by height
_HIGHEST_LOW, _LEAST_CHANGE = 0.99, 0.01  # of the cosines: smaller ranges are rounding
_SUBSCRIPTS = str.maketrans('0123456789', '₀₁₂₃₄₅₆₇₈₉')


def blocks_figure(arrays: Arrays) -> Figure:
    """Draw what the ESC blocks do for one word: a column for each block.

    From top to bottom: the correlation that the block reads; its pseudo prompts; the similarity of
    the features of every patch to those of one, after the block's SAM block; and the change of it.
    On the left the picture and the similarity of CLIP's features, which every block starts from; on
    the right the decoder's probability. Correlation maps have a range each, written below them; the
    maps of each lower row share one.

    Args:
        arrays: From :meth:`.WordInside.arrays`, or ``numpy.load`` of the ``.npz`` that
            ``WordInside.save`` writes. Rows of parts that the model lacks are left out.
    """
    arrays = dict(arrays)
    has_prompts, has_similarity = 'region' in arrays, 'similarity' in arrays
    maps = arrays['correlation'][:-1]
    figure, grid = _panels(arrays, rows=1 + has_prompts + 2 * has_similarity)
    top, lower = grid[0], iter(grid[1:])
    top[0].imshow(arrays['image'], extent=_EXTENT, aspect='auto')
    top[0].set_title(f'+: highest {_correlation(len(maps) - 1)}', fontsize=_LABEL)
    _mark(top[0], arrays)
    for number, (axes, values) in enumerate(zip(top[1:-1], maps, strict=True)):
        _draw_map(axes, arrays, values, cmap=_HEAT)
        axes.set_title(f'{_correlation(number)}, input of block {number + 1}', fontsize=_TITLE)
        _add_range(axes)
    _draw_map(top[-1], arrays, arrays['probability'], cmap=_HEAT, vmin=0)
    top[-1].set_title('probability (decoder)', fontsize=_TITLE)
    _add_range(top[-1])
    if has_prompts:
        _draw_prompts(next(lower), arrays)
    if has_similarity:
        _draw_similarity(next(lower), next(lower), arrays)
    for text in figure.findobj(Text):  # a name with two dollar signs is not a formula
        text.set_parse_math(False)
    return figure


def _panels(arrays: Arrays, rows: int) -> tuple[Figure, np.ndarray]:
    """A figure with a heading and panels of the picture's shape, without axes."""
    columns = len(arrays['correlation']) + 1
    height, width = arrays['image'].shape[:2]
    panel = _PANEL * float(np.clip(height / width, _FLATTEST, 1 / _FLATTEST))
    total_width = columns * (_PANEL + _GAP) - _GAP + 2 * _MARGIN
    total_height = _HEADING + rows * (_PANEL_TITLE + panel) + _RANGE + 2 * _MARGIN
    figure = Figure(figsize=(total_width, total_height))
    grid = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(grid.shape):
        left = _MARGIN + column * (_PANEL + _GAP)
        bottom = total_height - _MARGIN - _HEADING - (row + 1) * (_PANEL_TITLE + panel)
        bottom -= _RANGE if row else 0
        axes = figure.add_axes(
            (left / total_width, bottom / total_height, _PANEL / total_width, panel / total_height)
        )
        axes.axis('off')
        grid[row, column] = axes
    font, word = font_for(f'“{cut(str(arrays["word"]))}”', 1)
    figure.text(
        _MARGIN / total_width,
        1 - _MARGIN / total_height,
        word,
        va='top',
        fontproperties=FontProperties(fname=font.path, size=_TITLE + 2),
    )
    legend = 'C: correlation of each patch with the word; C₀ is by CLIP, each block refines it.'
    if 'similarity' in arrays:
        legend += '\nFᵥ: features of the patches by CLIP; Fᵥ′: the same, refined by a block.'
    figure.text(
        _MARGIN / total_width,
        1 - (_MARGIN + 0.22) / total_height,
        legend,
        va='top',
        fontsize=_SMALL,
        linespacing=1.35,
        color=QUIET,
    )
    return figure, grid


def _draw_map(
    axes: Axes, arrays: Arrays, values: np.ndarray, *, alpha: float = 0.75, **colors
) -> None:
    """Draw a map over the faded picture."""
    grey = arrays['image'].mean(axis=-1)
    axes.imshow(grey, extent=_EXTENT, aspect='auto', cmap='gray', vmin=0, vmax=255)
    axes.imshow(
        values, extent=_EXTENT, aspect='auto', alpha=alpha, interpolation='nearest', **colors
    )


def _draw_prompts(row: np.ndarray, arrays: Arrays) -> None:
    _explain(
        row[0],
        'Pseudo prompts',
        'from the map above. Outline: the\n'
        'region around its peak. Colours: its\n'
        'objects (k-means), more opaque where\n'
        'their masks are higher. Numbers: their\n'
        'points.',
    )
    names = ('region', 'objects', 'masks', 'points', 'valid')
    blocks = zip(*(arrays[name] for name in names), strict=True)
    for axes, (region, objects, masks, points, valid) in zip(row[1:-1], blocks, strict=True):
        colors = np.array([to_rgb(c) for c in islice(cycle(OKABE_ITO), len(valid))])
        layer = np.zeros((*region.shape, 4))
        layer[region, :3] = colors[objects[region]]
        layer[region, 3] = 0.9 * masks.max(axis=0)[region]
        _draw_map(axes, arrays, layer, alpha=1)
        if not region.all():  # otherwise there is no outline
            fine = np.kron(region, np.ones((8, 8)))  # makes the contour follow the patches
            axes.contour(fine, levels=[0.5], colors='white', linewidths=0.8, extent=(0, 1, 0, 1))
        numbers = np.flatnonzero(valid)
        for number in numbers:
            x, y = points[number]
            axes.plot(x, y, 'o', markersize=8, color=colors[number], markeredgecolor='white')
            style = dict(ha='center', va='center_baseline', fontsize=6, fontweight='bold')
            axes.text(x, y, str(number + 1), color='white', **style)
        count = f'{len(numbers)} {"object" if len(numbers) == 1 else "objects"}'
        axes.set_title(count, fontsize=_LABEL)


def _draw_similarity(after: np.ndarray, change: np.ndarray, arrays: Arrays) -> None:
    made_by = 'SAM block' if 'region' in arrays else 'projection'
    before = arrays['similarity_clip']
    maps = [before, *arrays['similarity']]
    changes = arrays['similarity'] - before
    lowest = min(_HIGHEST_LOW, np.min(maps))
    largest = max(_LEAST_CHANGE, np.abs(changes).max())
    titles = ['Fᵥ, from CLIP', *(f'Fᵥ′, {made_by} {t}' for t in range(1, len(maps)))]
    for axes, values, title in zip(after[:-1], maps, titles, strict=True):
        _draw_map(axes, arrays, values, cmap=_HEAT, vmin=lowest, vmax=1)
        _mark(axes, arrays)
        axes.set_title(title, fontsize=_LABEL)
    _add_bar(after[0], after[-1], 'similarity of each\npatch to the one at +:\ncosine of features')
    _explain(
        change[0],
        f'What the {made_by} changed',
        'Fᵥ′ minus Fᵥ in the row above.\nRed: more similar to the patch at +.\nBlue: less.',
    )
    for axes, values in zip(change[1:-1], changes, strict=True):
        _draw_map(axes, arrays, values, cmap=_CHANGE, vmin=-largest, vmax=largest)
        _mark(axes, arrays)
    _add_bar(change[1], change[-1], 'change of\nthe cosine')


def _mark(axes: Axes, arrays: Arrays) -> None:
    """Mark the patch that all others are compared with."""
    row, column = arrays['point']
    height, width = arrays['similarity_clip'].shape
    x, y = (column + 0.5) / width, (row + 0.5) / height
    axes.plot(x, y, '+', markersize=9, markeredgewidth=3, color='black')
    axes.plot(x, y, '+', markersize=8, markeredgewidth=1.5, color='white')


def _explain(axes: Axes, title: str, text: str) -> None:
    corner = dict(xy=(0, 1), xycoords='axes fraction', textcoords='offset points', va='top')
    axes.annotate(title, xytext=(0, -4), fontsize=_TITLE, **corner)
    style = dict(fontsize=_SMALL, linespacing=1.35, color=QUIET)
    axes.annotate(text, xytext=(0, -20), **style, **corner)


def _add_range(axes: Axes) -> None:
    """Draw the colours and the range of a map below it."""
    heat = axes.images[-1]
    ends = np.unique(heat.get_clim())  # the bar would widen a range of one value
    cax = axes.inset_axes((0, -0.07, 1, 0.035))
    bar = axes.figure.colorbar(heat, cax=cax, orientation='horizontal')
    bar.set_ticks(ends, labels=[f'{value:.2g}' for value in ends])
    bar.ax.tick_params(labelsize=_SMALL, length=0, pad=1.5)
    if len(ends) == 2:  # below the map, not beside it
        for label, side in zip(bar.ax.get_xticklabels(), ('left', 'right'), strict=True):
            label.set_horizontalalignment(side)
    bar.outline.set_visible(False)


def _add_bar(drawn: Axes, place: Axes, text: str) -> None:
    """Draw the colour bar that the maps of a row share, in a panel of its own."""
    cax = place.inset_axes((0.05, 0.08, 0.07, 0.84))
    bar = drawn.figure.colorbar(drawn.images[-1], cax=cax)
    bar.ax.tick_params(labelsize=_SMALL, length=2)
    bar.outline.set_visible(False)
    style = dict(transform=place.transAxes, va='center', linespacing=1.35)
    place.text(0.37, 0.5, text, fontsize=_SMALL, color=QUIET, **style)


def _correlation(number: int) -> str:
    return 'C' + str(number).translate(_SUBSCRIPTS)
