"""A label map over its image, with names and a legend that are readable at any size.

Shapes: H x W pixels, N classes.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageDraw

from ..colors import INK, OPACITY, distinct_in_picture
from ..vocabulary import display_names
from .fonts import font_for
from .legend import add_legend, add_title, legend_entries, present_classes, stripes

_SIDES = 480, 1600  # pixels of the longer side of a picture, at least and at most
_PANEL_SIDES = 384, 800  # of each panel
_MOST_NAMES, _LONGEST_TAG = 30, 20  # names in a picture, and characters of each
_LIGHT, _DARK = ImageColor.getrgb('white'), ImageColor.getrgb(INK)  # lines of outlines


def draw_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    *,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    num_asked: int | None = None,
    opacity: float = OPACITY,
    legend: bool = True,
    tags: bool = True,
) -> Image.Image:
    """Draw a label map over its image.

    The picture is resized such that its longer side has 480 to 1600 pixels. The legend lists up to
    forty of the classes present, the largest first, with their shares of the pixels, and up to ten
    that were not found.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) class ids; other ids are pixels without a class, which are left unpainted.
        names: The N class names.
        palette: N colours (R, G, B).
        num_asked: The first so many classes were asked for: the others, a background, are not
            missed if they were not found. By default all.
        opacity: Of the colours, 0 to 1.
        legend: Draw the legend, on the right.
        tags: Also write names into the image, where there is room.
    """
    image, small = _fit(image, *_SIDES), _fit(labels.astype(np.uint16), *_SIDES)
    size = max(14, round(max(image.shape) / 45))
    palette = distinct_in_picture(palette, present_classes([labels], len(names)))
    picture = Image.fromarray(paint(image, small, palette, opacity=opacity))
    if tags:
        write_names(picture, small, names, size)
    if legend:
        num_asked = len(names) if num_asked is None else num_asked
        entries = legend_entries([labels], names, palette, num_asked=num_asked)
        picture = add_legend(picture, entries, size)
    return picture


def draw_comparison(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    opacity: float = OPACITY,
    tags: bool = True,
) -> Image.Image:
    """Draw an image and label maps of it side by side, with one legend.

    Each is resized such that its longer side has 384 to 800 pixels.

    Args:
        image: (H, W, 3) uint8, RGB.
        maps: Title -> (H, W) class ids; other ids are ignored pixels, which are striped.
        names: The N class names.
        palette: N colours (R, G, B).
        opacity: Of the colours, 0 to 1.
        tags: Also write names into the label maps, where there is room.
    """
    labels = list(maps.values())
    palette = distinct_in_picture(palette, present_classes(labels, len(names)))
    image = _fit(image, *_PANEL_SIDES)
    height, width = image.shape[:2]
    size = max(14, round((len(maps) + 1) * max(height, width) / 90))
    panels = {'image': Image.fromarray(image)}
    for title, ids in maps.items():
        small = _fit(ids.astype(np.uint16), *_PANEL_SIDES)
        painted = paint(image, small, palette, opacity=opacity)
        unknown = small >= len(names)
        painted[unknown] = stripes(height, width, max(round(max(height, width) / 100), 1))[unknown]
        panels[title] = Image.fromarray(painted)
        if tags:
            write_names(panels[title], small, names, size)
    gap = size // 2
    row = Image.new('RGB', ((width + gap) * len(panels) - gap, height + 2 * size), 'white')
    for number, (title, panel) in enumerate(panels.items()):
        row.paste(add_title(panel, title, size), (number * (width + gap), 0))
    if not maps:
        return row
    entries = legend_entries(labels, names, palette, no_class='ignored', is_striped=True)
    heads = list(maps) if len(maps) > 1 else ()
    return add_legend(row, entries, size, heads=heads, is_below=row.width > 2 * row.height)


def paint(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]], *, opacity: float
) -> np.ndarray:
    """Mix the colours of the classes into an image, with outlines.

    An outline is a dark and a light line, so that neighbours part whatever their colours are.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) uint16; pixels with other ids than those of the N classes stay unpainted.
        palette: N colours (R, G, B).
        opacity: Of the colours, 0 to 1.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    known = labels < len(palette)
    colors = np.array([*palette, (0, 0, 0)], np.uint8)[np.where(known, labels, len(palette))]
    strength = opacity * known[..., None]
    painted = (strength * colors + (1 - strength) * image).round().astype(np.uint8)
    # a pixel is in an outline if the class of a neighbour has a lower (light), higher (dark) id
    wide = np.ones((3, 3), np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    brush = wide if max(labels.shape) > 1000 else cross
    painted[cv2.erode(labels, brush) < labels] = _LIGHT
    painted[cv2.dilate(labels, brush) > labels] = _DARK
    return painted


def write_names(picture: Image.Image, labels: np.ndarray, names: Sequence[str], size: int) -> None:
    """Write each name where its class is widest, the largest class first, if there is room.

    Args:
        picture: W x H pixels, changed in place.
        labels: (H, W); other ids than those of the N classes have no name.
        names: The N class names.
        size: Of the letters, in pixels.
    """
    draw, names = ImageDraw.Draw(picture), display_names(names, _LONGEST_TAG)
    taken = np.zeros(labels.shape, bool)
    for class_id in list(present_classes([labels], len(names)))[:_MOST_NAMES]:
        region = np.pad((labels == class_id).astype(np.uint8), 1)
        depth = cv2.distanceTransform(region, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        if depth[y, x] < 0.6 * size:
            continue
        font, name = font_for(names[class_id], size)
        left, top, right, bottom = draw.textbbox((0, 0), name, font=font, stroke_width=2)
        width, height = right - left, bottom - top
        if width > picture.width or height > picture.height:
            continue
        x = min(max(x - width / 2, 0), picture.width - width)
        y = min(max(y - height / 2, 0), picture.height - height)
        box = np.s_[int(y) : int(y + height) + 1, int(x) : int(x + width) + 1]
        if not taken[box].any():
            taken[box] = True
            style = dict(fill='white', stroke_width=2, stroke_fill='black')
            draw.text((x - left, y - top), name, font=font, **style)


def _fit(array: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    """Resize an image (H, W, 3) or a label map (H, W) to a longer side between two bounds."""
    height, width = array.shape[:2]
    longer = max(height, width)
    if longer > largest:
        size = [max(1, round(side * largest / longer)) for side in (width, height)]
        how = cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST
        return cv2.resize(array, size, interpolation=how)
    factor = -(-smallest // longer)
    return array.repeat(factor, axis=0).repeat(factor, axis=1)
