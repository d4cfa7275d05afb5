"""The legend of a picture: the classes present, their colours and shares.

Shapes: H x W pixels, N classes.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ..colors import INK, QUIET
from ..vocabulary import cut, display_names
from .fonts import text_width, write

MOST_ENTRIES = 40
_MOST_ABSENT = 10
_MOST_COLUMNS = 3
_STRIPES = (78, 116)  # greys of ignored pixels


class Entry(NamedTuple):
    """A line of the legend.

    Attributes:
        text: The name.
        shares: Its share of the pixels of each map, '' where it is absent.
        color: Of its box, (R, G, B); None for no box.
        is_striped: Whether the box is striped like ignored pixels.
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
    """The classes present in some label maps, the largest first.

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


def format_share(share: float) -> str:
    """A share of the pixels in %, with one decimal."""
    return f'{100 * share:.1f} %' if share >= 0.001 or share == 0 else '< 0.1 %'


def legend_entries(
    maps: Sequence[np.ndarray],
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    no_class: str = '(no class)',
    is_striped: bool = False,
    num_asked: int = 0,
) -> list[Entry]:
    """The lines of a legend: up to forty of the classes present, and the rest.

    Args:
        maps: Label maps (H, W).
        names: The N class names.
        palette: N colours (R, G, B).
        no_class: Name for pixels without a class.
        is_striped: Whether these are striped.
        num_asked: Of the first so many classes also list up to ten that are absent.
    """
    names = display_names(names)
    present = present_classes(maps, len(names))
    listed, more = list(present)[:MOST_ENTRIES], list(present)[MOST_ENTRIES:]
    entries = [Entry(names[i], _shares(present[i]), palette[i]) for i in listed]
    if more:
        rest = np.sum([present[i] for i in more], axis=0)
        entries.append(Entry(f'... {len(more)} more', _shares(rest)))
    unknown = [np.mean((labels < 0) | (labels >= len(names))) for labels in maps]
    if any(unknown):
        entries.append(Entry(no_class, _shares(unknown), is_striped=is_striped))
    absent = [name for i, name in enumerate(names[:num_asked]) if i not in present]
    if absent:
        more = [f'... {len(absent) - _MOST_ABSENT} more'] if len(absent) > _MOST_ABSENT else []
        texts = ['not found:', *absent[:_MOST_ABSENT], *more]
        entries += [Entry(text, ('',) * len(maps)) for text in texts]
    return entries


def _shares(shares: Iterable[float]) -> tuple[str, ...]:
    return tuple(format_share(share) if share else '' for share in shares)


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
        picture: The picture; the result is larger if the legend needs it.
        entries: Lines of the legend, at least one.
        size: Of the letters, in pixels.
        heads: Titles above the shares of each map.
        is_below: Put it below.
    """
    step, margin = round(1.6 * size), size
    head = [Entry('', tuple(heads))] if heads else []
    texts = zip(*((entry.text, *entry.shares) for entry in (*head, *entries)), strict=True)
    name_width, *share_widths = (max(text_width(text, size) for text in column) for column in texts)
    column_width = margin + step + name_width + sum(2 * size + width for width in share_widths)
    if is_below:
        rows = -(-len(entries) // max((picture.width - margin) // column_width, 1))
    else:
        room = (picture.height - 2 * margin) // step - len(head)
        rows = min(max(room, -(-len(entries) // _MOST_COLUMNS)), len(entries))
    columns = [[*head, *entries[i : i + rows]] for i in range(0, len(entries), rows)]
    left, top = (0, picture.height) if is_below else (picture.width, 0)
    width = left + len(columns) * column_width + margin
    height = top + 2 * margin + (rows + len(head)) * step
    canvas = Image.new('RGB', (max(picture.width, width), max(picture.height, height)), 'white')
    canvas.paste(picture, (0, 0))
    for number, column in enumerate(columns):
        for row, entry in enumerate(column):
            x, y = left + number * column_width + margin, top + margin + row * step
            if entry.is_striped or entry.color is not None:
                _draw_box(canvas, entry, x, y, size)
            ink = INK if any(entry.shares) else QUIET  # classes that were not found
            write(canvas, x + step, y + size / 2, entry.text, size, ink, 'lm')
            x += step + name_width
            for share, share_width in zip(entry.shares, share_widths, strict=True):
                x += 2 * size + share_width
                write(canvas, x - size, y + size / 2, share, size, QUIET, 'rm')
    return canvas


def add_title(picture: Image.Image, title: str, size: int) -> Image.Image:
    """Put a title above a picture."""
    canvas = Image.new('RGB', (picture.width, picture.height + 2 * size), 'white')
    canvas.paste(picture, (0, 2 * size))
    write(canvas, size // 2, size, cut(title), size, INK, 'lm')
    return canvas


def _draw_box(canvas: Image.Image, entry: Entry, left: int, top: int, size: int) -> None:
    if entry.is_striped:
        canvas.paste(Image.fromarray(stripes(size + 1, size + 1, max(size // 4, 1))), (left, top))
    fill = None if entry.is_striped else tuple(entry.color)
    box = (left, top, left + size, top + size)
    ImageDraw.Draw(canvas).rectangle(box, fill=fill, outline=QUIET)
