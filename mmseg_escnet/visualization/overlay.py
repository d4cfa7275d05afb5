"""A label map over its image, with names and a legend that can be read at any size.

Shapes: H x W pixels, N classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .names import short_name

_SMALLEST, _LARGEST = 480, 1600  # pixels of the longer side of a picture
_MOST_ENTRIES = 40
_MOST_COLUMNS = 3
_MOST_TAGS = 30
_BACKGROUND, _INK, _QUIET = (255, 255, 255), (30, 33, 38), (107, 112, 120)


def draw_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    *,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    opacity: float = 0.55,
    legend: bool = True,
    tags: bool = True,
) -> Image.Image:
    """Draw a label map over its image.

    The picture is made larger or smaller such that its longer side has 480 to 1600 pixels. The
    legend names the classes that are there, those that cover most first, with their share of the
    pixels, and ends after forty.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) class ids; other ids are pixels without a class, which are left unpainted.
        names: The N class names. Of several synonyms the first is written.
        palette: N colours (R, G, B).
        opacity: Of the colours, 0 to 1; outlines are opaque.
        legend: Draw the legend, on the right.
        tags: Write names into the image too, where there is room.
    """
    image, small = _resize(image, labels)
    known = small < len(names)
    table = np.zeros((len(names) + 1, 3), np.uint8)
    table[:-1] = palette
    colors = table[np.where(known, small, len(names))]
    strength = np.where(_outlines(small), 1.0, opacity)[..., None] * known[..., None]
    mixed = (strength * colors + (1 - strength) * image).round().astype(np.uint8)
    picture = Image.fromarray(mixed)
    size = _font_size(picture)
    if tags:
        _write_tags(picture, small, names, size)
    return _with_legend(picture, labels, names, palette, size) if legend else picture


def _resize(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = labels.shape
    longer = max(height, width)
    labels = labels.astype(np.uint16)
    if longer > _LARGEST:
        size = tuple(max(1, round(side * _LARGEST / longer)) for side in (width, height))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.resize(
            labels, size, interpolation=cv2.INTER_NEAREST
        )
    factor = -(-_SMALLEST // longer)
    return tuple(array.repeat(factor, axis=0).repeat(factor, axis=1) for array in (image, labels))


def _outlines(labels: np.ndarray) -> np.ndarray:
    """Pixels beside another class, (H, W) bool; two pixels wide in a large picture."""
    edge = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    if max(labels.shape) > 1000:
        edge = cv2.dilate(edge.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return edge


def _write_tags(picture: Image.Image, labels: np.ndarray, names: Sequence[str], size: int) -> None:
    """Write each name where its class is widest, if there is room."""
    draw, font = ImageDraw.Draw(picture), _font(size)
    ids, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind='stable')
    taken: list[tuple[float, float, float, float]] = []
    for class_id in [int(i) for i in ids[order] if i < len(names)][:_MOST_TAGS]:
        region = np.pad((labels == class_id).astype(np.uint8), 1)
        depth = cv2.distanceTransform(region, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        if depth[y, x] < 0.6 * size:
            continue
        name = short_name(names[class_id])
        left, top, right, bottom = draw.textbbox((0, 0), name, font=font, stroke_width=2)
        width, height = right - left, bottom - top
        if width > picture.width or height > picture.height:
            continue
        x = min(max(x - width / 2, 0), picture.width - width)
        y = min(max(y - height / 2, 0), picture.height - height)
        box = (x, y, x + width, y + height)
        if any(_overlap(box, other) for other in taken):
            continue
        taken.append(box)
        draw.text(
            (x - left, y - top),
            name,
            font=font,
            fill=(255, 255, 255),
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return not (
        box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1]
    )


def _with_legend(
    picture: Image.Image,
    labels: np.ndarray,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    size: int,
) -> Image.Image:
    font = _font(size)
    entries = _entries(labels, names, palette)
    step, margin = round(1.6 * size), size
    rows = max((picture.height - 2 * margin) // step, -(-len(entries) // _MOST_COLUMNS))
    columns = [entries[first : first + rows] for first in range(0, len(entries), rows)]
    widths = [
        tuple(max(round(font.getlength(entry[part])) for entry in column) for part in (0, 1))
        for column in columns
    ]
    gaps = margin + step + 2 * size  # before the colour, of the colour, around the share
    canvas = Image.new(
        'RGB',
        (
            picture.width + sum(map(sum, widths)) + gaps * len(columns) + margin,
            max(picture.height, 2 * margin + step * min(rows, len(entries))),
        ),
        _BACKGROUND,
    )
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    left = picture.width
    for column, width in zip(columns, widths, strict=True):
        right = left + gaps + sum(width)
        for row, (text, share, color) in enumerate(column):
            top = margin + row * step
            if color is not None:
                box = (left + margin, top, left + margin + size, top + size)
                draw.rectangle(box, fill=tuple(color), outline=_QUIET)
            middle = top + size / 2
            draw.text((left + margin + step, middle), text, font=font, fill=_INK, anchor='lm')
            draw.text((right - size, middle), share, font=font, fill=_QUIET, anchor='rm')
        left = right
    return canvas


def _entries(
    labels: np.ndarray, names: Sequence[str], palette: Sequence[Sequence[int]]
) -> list[tuple[str, str, Sequence[int] | None]]:
    """Name, share of the pixels and colour of the classes in a map."""
    ids, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind='stable')
    shares = [(int(ids[i]), counts[i] / labels.size) for i in order]
    known = [(i, share) for i, share in shares if i < len(names)]
    entries = [(short_name(names[i]), _percent(share), palette[i]) for i, share in known]
    if len(entries) > _MOST_ENTRIES:
        rest = sum(share for _, share in known[_MOST_ENTRIES:])
        entries = entries[:_MOST_ENTRIES]
        entries.append((f'... {len(known) - _MOST_ENTRIES} more', _percent(rest), None))
    if unknown := sum(share for i, share in shares if i >= len(names)):
        entries.append(('(no class)', _percent(unknown), None))
    return entries


def _percent(share: float) -> str:
    return f'{100 * share:.1f} %' if share >= 0.001 else '< 0.1 %'


def _font_size(picture: Image.Image) -> int:
    return max(14, round(max(picture.size) / 45))


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # the one that matplotlib brings along: the same on every machine, with most of the alphabets
    return ImageFont.truetype(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf'), size)
