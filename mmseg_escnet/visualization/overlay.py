"""A label map over its image, with names and a legend that can be read at any size.

Shapes: H x W pixels, N classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ..vocabulary import short_name
from .colors import tell_apart
from .fonts import font_for
from .legend import (
    MOST_ENTRIES,
    add_legend,
    add_title,
    legend_entries,
    present_classes,
    stripes,
)

_SMALLEST, _LARGEST = 480, 1600  # pixels of the longer side of a picture
_SMALLEST_PANEL, _LARGEST_PANEL = 384, 800  # of each of several side by side
_MOST_TAGS = 30


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
    image, small = _resize(image, labels, _SMALLEST, _LARGEST)
    size = _font_size(image)
    picture = _paint(image, small, names, palette, opacity=opacity)
    if tags:
        _write_tags(picture, small, names, size)
    if not legend:
        return picture
    return add_legend(picture, legend_entries([labels], names, palette), size)


def draw_comparison(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    opacity: float = 0.55,
    tags: bool = True,
) -> Image.Image:
    """Draw an image and label maps of it side by side, with one legend.

    Each is made larger or smaller such that its longer side has 384 to 800 pixels. Two classes in
    the legend never look alike: see :func:`.colors.tell_apart`, and it is said where a colour is
    another than usual.

    Args:
        image: (H, W, 3) uint8, RGB.
        maps: Title -> (H, W) class ids; other ids are ignored pixels, which are striped.
        names: The N class names. Of several synonyms the first is written.
        palette: N colours (R, G, B).
        opacity: Of the colours, 0 to 1; outlines are opaque.
        tags: Write names into the label maps too, where there is room.
    """
    present = present_classes(list(maps.values()), len(names))
    changed = tell_apart(palette, list(present)[:MOST_ENTRIES])
    palette = [changed.get(i, color) for i, color in enumerate(palette)]
    limits = (_SMALLEST_PANEL, _LARGEST_PANEL)
    small_image, _ = _resize(image, image[..., 0], *limits)
    height, width = small_image.shape[:2]
    size = max(14, round((len(maps) + 1) * max(small_image.shape) / 90))
    panels = {'image': Image.fromarray(small_image)}
    for title, labels in maps.items():
        _, small = _resize(image, labels, *limits)
        panels[title] = _paint(
            small_image, small, names, palette, opacity=opacity, has_stripes=True
        )
        if tags:
            _write_tags(panels[title], small, names, size)
    gap = size // 2
    row = Image.new('RGB', ((width + gap) * len(panels) - gap, height + 2 * size), (255, 255, 255))
    for number, (title, panel) in enumerate(panels.items()):
        row.paste(add_title(panel, title, size), (number * (width + gap), 0))
    entries = legend_entries(
        list(maps.values()),
        names,
        palette,
        no_class='ignored',
        is_striped=True,
        recolored=changed,
    )
    heads = list(maps) if len(maps) > 1 else ()
    is_below = row.width > 2 * row.height
    return add_legend(row, entries, size, heads=heads, is_below=is_below) if entries else row


def _paint(
    image: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    *,
    opacity: float,
    has_stripes: bool = False,
) -> Image.Image:
    """Mix colours into the image; pixels of no class stay as they are, or are striped."""
    known = labels < len(names)
    table = np.zeros((len(names) + 1, 3), np.uint8)
    table[:-1] = palette
    colors = table[np.where(known, labels, len(names))]
    strength = np.where(_outlines(labels), 1.0, opacity)[..., None] * known[..., None]
    mixed = (strength * colors + (1 - strength) * image).round().astype(np.uint8)
    if has_stripes and not known.all():
        height, width = labels.shape
        mixed[~known] = stripes(height, width, max(round(max(labels.shape) / 100), 1))[~known]
    return Image.fromarray(mixed)


def _resize(
    image: np.ndarray, labels: np.ndarray, smallest: int, largest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bring an image and its label map to a size at which the longer side is between two bounds."""
    height, width = labels.shape
    longer = max(height, width)
    labels = labels.astype(np.uint16)
    if longer > largest:
        size = tuple(max(1, round(side * largest / longer)) for side in (width, height))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.resize(
            labels, size, interpolation=cv2.INTER_NEAREST
        )
    factor = -(-smallest // longer)
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
    draw = ImageDraw.Draw(picture)
    ids, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind='stable')
    taken: list[tuple[float, float, float, float]] = []
    for class_id in [int(i) for i in ids[order] if i < len(names)][:_MOST_TAGS]:
        region = np.pad((labels == class_id).astype(np.uint8), 1)
        depth = cv2.distanceTransform(region, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        if depth[y, x] < 0.6 * size:
            continue
        font, name = font_for(short_name(names[class_id]), size)
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


def _font_size(image: np.ndarray) -> int:
    return max(14, round(max(image.shape) / 45))
