"""The figure of what the ESC blocks do for one word of an image.

Shapes: h x w patch grid, K objects, T blocks.
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

from ..vocabulary import short_name
from .fonts import font_for

if TYPE_CHECKING:
    from ..apis.inside import WordInside, WordPrompts

# Okabe and Ito's colours, which the colour-blind can tell apart
_OBJECT_COLORS = ('#d55e00', '#0072b2', '#009e73', '#cc79a7', '#b07d00', '#56b4e9')
_QUIET = '#6b7078'
_HEAT, _CHANGE = 'viridis', 'RdBu_r'
_TITLE, _LABEL, _SMALL = 10, 8.5, 7.5  # font sizes
_EXTENT = (0, 1, 1, 0)  # of the picture and, patch by patch, of the maps
# inches
_PANEL, _GAP, _MARGIN = 2.1, 0.1, 0.1
_HEADING, _PANEL_TITLE, _RANGE = 0.2, 0.28, 0.3
_FLATTEST = 0.45  # height by width of a panel, and width by height
_HIGHEST_LOW, _LEAST_CHANGE = 0.99, 0.01  # of the cosines: what is less is rounding
_SUBSCRIPTS = str.maketrans('0123456789', '₀₁₂₃₄₅₆₇₈₉')


def blocks_figure(inside: WordInside) -> Figure:
    """Draw what the ESC blocks do for one word: a column for each block.

    From top to bottom: the correlation that the block reads; the pseudo prompts made of it; how
    much the features of every patch, after the block's SAM block, are like those of one; and how
    that differs from before it. On the left the picture and CLIP's features, which every block
    starts from; on the right what the decoder makes of it all. The range of a correlation map is
    written below it; the maps of the lower rows share theirs.

    Args:
        inside: What there is to draw; rows of what the model does not have are left out.
    """
    blocks = inside.blocks
    has_prompts = any(block.prompts is not None for block in blocks)
    has_similarity = any(block.similarity is not None for block in blocks)
    figure, grid = _panels(inside, rows=1 + has_prompts + 2 * has_similarity)
    top, lower = grid[0], iter(grid[1:])
    top[0].imshow(inside.image, extent=_EXTENT, aspect='auto')
    top[0].set_title(f'+ where {_correlation(len(blocks) - 1)} peaks', fontsize=_LABEL)
    _mark(top[0], inside)
    for number, (axes, block) in enumerate(zip(top[1:-1], blocks, strict=True)):
        _draw_map(axes, inside, block.read, cmap=_HEAT)
        axes.set_title(f'{_correlation(number)}, read by block {number + 1}', fontsize=_TITLE)
        _add_range(axes)
    _draw_map(top[-1], inside, inside.probability, cmap=_HEAT, vmin=0)
    top[-1].set_title('probability (decoder)', fontsize=_TITLE)
    _add_range(top[-1])
    if has_prompts:
        _draw_prompt_row(next(lower), inside)
    if has_similarity:
        _draw_similarity_rows(next(lower), next(lower), inside)
    for text in figure.findobj(Text):  # a name with two dollar signs is no formula
        text.set_parse_math(False)
    return figure


def _panels(inside: WordInside, rows: int) -> tuple[Figure, np.ndarray]:
    """A figure with a heading and panels of the picture's shape, without axes."""
    columns = len(inside.blocks) + 2
    height, width = inside.image.shape[:2]
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
    font, word = font_for(f'“{short_name(inside.word)}”', 1)
    figure.text(
        _MARGIN / total_width,
        1 - _MARGIN / total_height,
        word,
        va='top',
        fontproperties=FontProperties(fname=font.path, size=_TITLE + 2),
    )
    return figure, grid


def _draw_map(axes: Axes, inside: WordInside, values: np.ndarray, **colors) -> None:
    """Draw a map over the faded picture."""
    _draw_faded(axes, inside)
    axes.imshow(
        values, extent=_EXTENT, aspect='auto', alpha=0.75, interpolation='nearest', **colors
    )


def _draw_faded(axes: Axes, inside: WordInside) -> None:
    grey = inside.image.mean(axis=-1)
    axes.imshow(grey, extent=_EXTENT, aspect='auto', cmap='gray', vmin=0, vmax=255)


def _draw_prompt_row(row: np.ndarray, inside: WordInside) -> None:
    _explain(
        row[0],
        'Pseudo prompts',
        'made of the map above. Outline: the\n'
        'region around its peak. Colours: its\n'
        'objects (k-means), the fuller the higher\n'
        'their masks. Numbers: their points.\n'
        'Presence: this word among all.',
    )
    for axes, block in zip(row[1:-1], inside.blocks, strict=True):
        if block.prompts is None:
            continue
        _draw_faded(axes, inside)
        _draw_prompts(axes, block.prompts)
        count = int(block.prompts.valid.sum())
        axes.set_title(
            f'{count} {"object" if count == 1 else "objects"}, '
            f'presence {block.prompts.presence:.2f}',
            fontsize=_LABEL,
        )


def _draw_prompts(axes: Axes, prompts: WordPrompts) -> None:
    colors = np.array([to_rgb(c) for c in islice(cycle(_OBJECT_COLORS), len(prompts.valid))])
    inner = prompts.region
    layer = np.zeros((*inner.shape, 4))
    layer[inner, :3] = colors[prompts.objects[inner]]
    layer[inner, 3] = 0.9 * prompts.masks.max(axis=0)[inner]
    axes.imshow(layer, extent=_EXTENT, aspect='auto', interpolation='nearest')
    if not inner.all():  # a region without an end has no outline
        fine = np.kron(inner, np.ones((8, 8)))  # so that the contour follows the patches
        axes.contour(fine, levels=[0.5], colors='white', linewidths=0.8, extent=(0, 1, 0, 1))
    for number in np.flatnonzero(prompts.valid):
        x, y = prompts.points[number]
        axes.plot(x, y, 'o', markersize=8, color=colors[number], markeredgecolor='white')
        style = dict(ha='center', va='center_baseline', fontsize=6, fontweight='bold')
        axes.text(x, y, str(number + 1), color='white', **style)


def _draw_similarity_rows(after: np.ndarray, change: np.ndarray, inside: WordInside) -> None:
    has_sam = any(block.prompts is not None for block in inside.blocks)
    made_by = 'SAM block' if has_sam else 'projection'
    maps = [block.similarity for block in inside.blocks]
    changes = [values - inside.similarity for values in maps]
    lowest = min(_HIGHEST_LOW, *(values.min() for values in (inside.similarity, *maps)))
    largest = max(_LEAST_CHANGE, *(np.abs(values).max() for values in changes))
    titles = ('Fᵥ, from CLIP', *(f'Fᵥ′, {made_by} {t}' for t in range(1, len(maps) + 1)))
    for axes, values, title in zip(after, (inside.similarity, *maps), titles, strict=False):
        _draw_map(axes, inside, values, cmap=_HEAT, vmin=lowest, vmax=1)
        _mark(axes, inside)
        axes.set_title(title, fontsize=_LABEL)
    _add_bar(after[0], after[-1], 'how alike each patch\nis to the one at +:\ncosine of features')
    _explain(
        change[0],
        f'What the {made_by} changed',
        'Fᵥ′ minus Fᵥ, of the row above.\nRed: now more alike to the patch at +.\nBlue: now less.',
    )
    for axes, values in zip(change[1:-1], changes, strict=True):
        _draw_map(axes, inside, values, cmap=_CHANGE, vmin=-largest, vmax=largest)
        _mark(axes, inside)
    _add_bar(change[1], change[-1], 'change of\nthe cosine')


def _mark(axes: Axes, inside: WordInside) -> None:
    """Mark the patch that the others are compared with."""
    row, column = inside.point
    height, width = inside.similarity.shape
    x, y = (column + 0.5) / width, (row + 0.5) / height
    axes.plot(x, y, '+', markersize=9, markeredgewidth=3, color='black')
    axes.plot(x, y, '+', markersize=8, markeredgewidth=1.5, color='white')


def _explain(axes: Axes, title: str, text: str) -> None:
    axes.annotate(
        title,
        (0, 1),
        xytext=(0, -4),
        xycoords='axes fraction',
        textcoords='offset points',
        va='top',
        fontsize=_TITLE,
    )
    axes.annotate(
        text,
        (0, 1),
        xytext=(0, -20),
        xycoords='axes fraction',
        textcoords='offset points',
        va='top',
        fontsize=_SMALL,
        linespacing=1.35,
        color=_QUIET,
    )


def _add_range(axes: Axes) -> None:
    """Draw the colours and the range of a map below it."""
    heat = axes.images[-1]
    ends = np.unique(heat.get_clim())  # before the bar makes two of one
    cax = axes.inset_axes((0, -0.07, 1, 0.035))
    bar = axes.figure.colorbar(heat, cax=cax, orientation='horizontal')
    bar.set_ticks(ends, labels=[f'{value:.2g}' for value in ends])
    bar.ax.tick_params(labelsize=_SMALL, length=0, pad=1.5)
    if len(ends) == 2:  # below the map, not beside it
        for label, side in zip(bar.ax.get_xticklabels(), ('left', 'right'), strict=True):
            label.set_horizontalalignment(side)
    bar.outline.set_visible(False)


def _add_bar(drawn: Axes, place: Axes, text: str) -> None:
    """Draw the colours that the maps of a row share in a panel of its own."""
    cax = place.inset_axes((0.05, 0.08, 0.07, 0.84))
    bar = drawn.figure.colorbar(drawn.images[-1], cax=cax)
    bar.ax.tick_params(labelsize=_SMALL, length=2)
    bar.outline.set_visible(False)
    style = dict(transform=place.transAxes, va='center', linespacing=1.35)
    place.text(0.37, 0.5, text, fontsize=_SMALL, color=_QUIET, **style)


def _correlation(number: int) -> str:
    """C_t, as it is written."""
    return 'C' + str(number).translate(_SUBSCRIPTS)
