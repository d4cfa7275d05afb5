"""The legend beside a picture: names of what is there, colours, shares.

Shapes: H x W pixels, N classes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ..vocabulary import cut, short_name
from .fonts import font_for

MOST_ENTRIES = 40
_MOST_COLUMNS = 3
_BACKGROUND, _INK, _QUIET = (255, 255, 255), (30, 33, 38), (107, 112, 120)
_STRIPES = (78, 116)  # greys of ignored pixels


class Entry(NamedTuple):
    """A line of the legend.

    Attributes:
        text: The name.
        shares: Its share of the pixels of each map, '' where it is not.
        color: Of its box, (R, G, B); None for no box.
        is_striped: Whether the box is striped as ignored pixels are.
    """

    text: str
    shares: tuple[str, ...]
    color: Sequence[int] | None = None
    is_striped: bool = False


def stripes(height: int, width: int, thickness: int) -> np.ndarray:
    """Grey diagonal stripes, (height, width, 3) uint8."""
    y, x = np.ogrid[:height, :width]
    grey = np.where((x + y) // thickness % 2, *_STRIPES).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def present_classes(maps: Sequence[np.ndarray], num_classes: int) -> dict[int, list[float]]:
    """Which classes are in some label maps, those that cover most first.

    Returns:
        Class id -> its share of the pixels of each map.
    """
    shares: dict[int, list[float]] = {}
    for number, labels in enumerate(maps):
        ids, counts = np.unique(labels, return_counts=True)
        for class_id, count in zip(ids.tolist(), counts.tolist(), strict=True):
            if 0 <= class_id < num_classes:
                shares.setdefault(class_id, [0.0] * len(maps))[number] = count / labels.size
    return dict(sorted(shares.items(), key=lambda item: (-sum(item[1]), item[0])))


def legend_entries(
    maps: Sequence[np.ndarray],
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    no_class: str = '(no class)',
    is_striped: bool = False,
    recolored: Collection[int] = (),
) -> list[Entry]:
    """The lines of a legend: the classes that are there, which end after forty, and the rest.

    Args:
        maps: Label maps (H, W).
        names: The N class names.
        palette: N colours (R, G, B).
        no_class: What pixels of no class are called.
        is_striped: Whether these are striped.
        recolored: Classes with another colour than usual, which is said.
    """
    present = present_classes(maps, len(names))
    shown = list(present)[:MOST_ENTRIES]
    entries = [
        Entry(
            short_name(names[i]) + ('*' if i in recolored else ''),
            _percents(present[i]),
            palette[i],
        )
        for i in shown
    ]
    if more := list(present)[MOST_ENTRIES:]:
        rest = [sum(present[i][number] for i in more) for number in range(len(maps))]
        entries.append(Entry(f'... {len(more)} more', _percents(rest)))
    unknown = [
        np.count_nonzero((labels < 0) | (labels >= len(names))) / labels.size for labels in maps
    ]
    if any(unknown):
        entries.append(Entry(no_class, _percents(unknown), is_striped=is_striped))
    if any(i in recolored for i in shown):
        entries.append(Entry('* not its usual colour', ('',) * len(maps)))
    return entries


def _percents(shares: Sequence[float]) -> tuple[str, ...]:
    return tuple(
        '' if not share else f'{100 * share:.1f} %' if share >= 0.001 else '< 0.1 %'
        for share in shares
    )


def add_legend(
    picture: Image.Image,
    entries: Sequence[Entry],
    size: int,
    *,
    heads: Sequence[str] = (),
    is_below: bool = False,
) -> Image.Image:
    """Put a legend to the right of a picture, or below it.

    Args:
        picture: The picture, which grows if the legend is larger.
        entries: Lines of the legend.
        size: Of the letters, in pixels.
        heads: What stands above the shares of each map.
        is_below: Put it below.
    """
    step, margin = round(1.6 * size), size
    top_row = 1 if heads else 0
    if is_below:
        rows = next(
            rows
            for rows in range(1, len(entries) + 1)
            if rows == len(entries)
            or sum(map(sum, _columns(entries, rows, heads, size)[1])) + margin <= picture.width
        )
    else:
        room = (picture.height - 2 * margin) // step - top_row
        rows = max(room, -(-len(entries) // _MOST_COLUMNS))
    columns, widths = _columns(entries, rows, heads, size)
    width = sum(map(sum, widths)) + margin
    height = 2 * margin + step * (min(rows, len(entries)) + top_row)
    left, start = (0, picture.height) if is_below else (picture.width, 0)
    canvas = Image.new(
        'RGB',
        (max(picture.width, left + width), max(picture.height, start + height)),
        _BACKGROUND,
    )
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for column, (name_width, *share_widths) in zip(columns, widths, strict=True):
        for row, entry in enumerate(column):
            top = start + margin + row * step
            middle = top + size / 2
            _draw_box(canvas, entry, left + margin, top, size)
            _write(draw, left + margin + step, middle, entry.text, size, _INK, 'lm')
            right = left + name_width
            for share, share_width in zip(entry.shares, share_widths, strict=True):
                right += share_width
                _write(draw, right - size, middle, share, size, _QUIET, 'rm')
        left += name_width + sum(share_widths)
    return canvas


def _columns(
    entries: Sequence[Entry], rows: int, heads: Sequence[str], size: int
) -> tuple[list[list[Entry]], list[list[int]]]:
    """Columns of so many lines, and for each the widths of its names and shares with all gaps."""
    above = [Entry('', tuple(heads))] if heads else []
    columns = [
        [*above, *entries[first : first + rows]] for first in range(0, len(entries), max(rows, 1))
    ]
    before = size + round(1.6 * size)  # margin and box
    widths = []
    for column in columns:
        shares = zip(*(entry.shares for entry in column), strict=True)
        widths.append(
            [
                before + max(_width(entry.text, size) for entry in column),
                *(2 * size + max(_width(share, size) for share in texts) for texts in shares),
            ]
        )
    return columns, widths


def add_title(picture: Image.Image, title: str, size: int) -> Image.Image:
    """Put a title above a picture."""
    height = 2 * size
    canvas = Image.new('RGB', (picture.width, picture.height + height), _BACKGROUND)
    canvas.paste(picture, (0, height))
    _write(ImageDraw.Draw(canvas), size // 2, height / 2, cut(title), size, _INK, 'lm')
    return canvas


def _draw_box(canvas: Image.Image, entry: Entry, left: int, top: int, size: int) -> None:
    box = (left, top, left + size, top + size)
    if entry.is_striped:
        canvas.paste(Image.fromarray(stripes(size + 1, size + 1, max(size // 4, 1))), (left, top))
        ImageDraw.Draw(canvas).rectangle(box, outline=_QUIET)
    elif entry.color is not None:
        ImageDraw.Draw(canvas).rectangle(box, fill=tuple(entry.color), outline=_QUIET)


def _width(text: str, size: int) -> int:
    font, text = font_for(text, size)
    return round(font.getlength(text))


def _write(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    text: str,
    size: int,
    color: tuple[int, int, int],
    anchor: str,
) -> None:
    font, text = font_for(text, size)
    draw.text((x, y), text, font=font, fill=color, anchor=anchor)
