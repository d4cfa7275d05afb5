"""A picture of a data set: some images, their label maps over them, and the names of what is there.

Shapes: H x W pixels, N classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

import cv2
import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..vocabulary import short_name
from .inspection import IGNORED, OUTSIDE, Inspection, Sample, load_pair, spread

NUM_IMAGES = 10
# Sasha Trubetskoy's distinct colours, without the greys: ignored pixels are grey
_COLORS = (
    *('#e6194b', '#3cb44b', '#ffe119', '#4363d8', '#f58231', '#911eb4', '#42d4f4', '#f032e6'),
    *('#bfef45', '#469990', '#9a6324', '#fabed4', '#800000', '#aaffc3', '#808000', '#000075'),
    *('#dcbeff', '#ffd8b1'),
)
_SHADE = 0.6  # how much the brightness of the photograph changes a colour
_IGNORED_GREYS = (0.24, 0.36)  # brightness of the stripes
_SIDE = 480  # pixels of the longer side of a picture
_OUTSIDE_COLOR = (255, 0, 255)
_COLUMNS = 2
_PICTURE, _LEGEND, _GAP, _TITLE, _LINE = 2.55, 1.75, 0.07, 0.24, 0.148  # inches
_TALLEST = 2.9  # inches
_MOST_LEGEND_ENTRIES = 12
_SMALLEST_NAMED = 0.015  # share of the picture that a region needs for its name to be written in it
_LONGEST_NAME = 22  # characters
_CHARACTER = (10.2, 18.0)  # width and height of a character in pixels of the picture
_QUIET = '#6b7078'


class _Scene(NamedTuple):
    """An image of the sheet: photograph and class ids at the size they are drawn in."""

    title: str
    photo: np.ndarray  # (H, W, 3) uint8, RGB
    classes: np.ndarray  # (H, W) int64, IGNORED and OUTSIDE among them
    shares: dict[int, float]  # class id -> share of the pixels of the label map, largest first


def contact_sheet(inspection: Inspection, title: str) -> Figure:
    """Draw ten evenly spaced images: photograph, label map over it, legend.

    A class has one colour on the whole sheet, and another one than the classes it shares an image
    with, as far as there are colours. Ignored pixels are striped in dark grey, those with an
    id that no class has in magenta.

    Args:
        inspection: Of a data set in which at least one image and its label map match.
        title: Written on top.
    """
    chosen = [inspection.matching[i] for i in spread(len(inspection.matching), NUM_IMAGES)]
    scenes = [_load(sample, inspection) for sample in chosen]
    colors = assign_colors([list(scene.shares) for scene in scenes])
    rows = [scenes[i : i + _COLUMNS] for i in range(0, len(scenes), _COLUMNS)]
    heights = [max(_height(scene) for scene in row) for row in rows]
    column = 2 * _PICTURE + _LEGEND + 2 * _GAP
    width = column * min(_COLUMNS, len(scenes)) + 2 * _GAP
    height = sum(heights) + (len(rows)) * (_TITLE + 2 * _GAP) + 0.5
    figure = Figure(figsize=(width, height))
    heading = f'{title} ({len(scenes)} of {inspection.total} images)'
    size = min(12, 72 * width / (0.62 * len(heading)))  # a long one gets smaller
    _write(figure, 2 * _GAP, height - 0.3, heading, size=size)
    top = height - 0.5
    for row, row_height in zip(rows, heights, strict=True):
        for number, scene in enumerate(row):
            left = 2 * _GAP + number * column
            _write(figure, left, top - _TITLE + 0.06, scene.title, size=8.5, color=_QUIET)
            bottom = top - _TITLE - row_height
            names = inspection.labels.names
            for place in range(2):
                x = left + place * (_PICTURE + _GAP)
                axes = figure.add_axes(
                    (x / width, bottom / height, _PICTURE / width, row_height / height)
                )
                axes.set_axis_off()
                axes.set_anchor('N')
                if place == 0:
                    axes.imshow(scene.photo)
                else:
                    axes.imshow(_overlay(scene, colors))
                    _write_names(axes, scene, names)
            x = left + 2 * (_PICTURE + _GAP)
            axes = figure.add_axes(
                (x / width, bottom / height, _LEGEND / width, row_height / height)
            )
            axes.set_axis_off()
            _draw_legend(axes, scene, names, colors)
        top -= row_height + _TITLE + 2 * _GAP
    return figure


def assign_colors(scenes: Sequence[Sequence[int]]) -> dict[int, tuple[int, int, int]]:
    """Give classes colours, different ones to those that are in one image.

    Args:
        scenes: For each image the ids of its classes, the most important first; those below 0 are
            left out.

    Returns:
        Class id -> ``(R, G, B)`` in 0..255.
    """
    together: dict[int, set[int]] = {}
    rank: dict[int, int] = {}  # the place of a class where it is most important
    for scene in scenes:
        known = [i for i in scene if i >= 0]
        for place, i in enumerate(known):
            together.setdefault(i, set()).update(known)
            rank[i] = min(place, rank.get(i, place))
    chosen: dict[int, int] = {}
    for i in sorted(together, key=lambda i: (rank[i], i)):
        near = Counter(chosen[j] for j in together[i] if j in chosen)
        far = Counter(chosen.values())
        chosen[i] = min(range(len(_COLORS)), key=lambda c: (near[c], far[c], c))
    palette = [tuple(round(255 * value) for value in to_rgb(color)) for color in _COLORS]
    return {i: palette[color] for i, color in chosen.items()}


def _load(sample: Sample, inspection: Inspection) -> _Scene:
    image, ids = load_pair(sample, inspection.loading)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    classes = inspection.labels.make_table()[ids]
    present, pixels = np.unique(classes, return_counts=True)
    order = np.argsort(-pixels, kind='stable')
    shares = {int(present[i]): pixels[i] / classes.size for i in order}
    height, width = classes.shape
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    photo = cv2.resize(image[..., 2::-1].astype(np.uint8), size, interpolation=smooth)
    small = cv2.resize(classes.astype(np.float64), size, interpolation=cv2.INTER_NEAREST)
    stem = PurePath(sample.image).name
    return _Scene(f'{stem}   {width}x{height}', photo, small.astype(np.int64), shares)


def _height(scene: _Scene) -> float:
    height, width = scene.classes.shape
    lines = min(len(scene.shares), _MOST_LEGEND_ENTRIES + 2)
    return max(min(_PICTURE * height / width, _TALLEST), lines * _LINE + 0.1)


def _overlay(scene: _Scene, colors: dict) -> np.ndarray:
    """Regions in colour over the grey photograph, with their borders."""
    grey = cv2.cvtColor(scene.photo, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    paint = np.zeros_like(scene.photo, np.float32)
    for i, color in colors.items():
        paint[scene.classes == i] = color
    # a shaded colour keeps its hue, so that it is found in the legend; a little grey lets the
    # photograph be seen under dark colours
    shade = (1 + _SHADE * (grey - grey.mean()) / 255).clip(max=1.12)
    mixed = 0.9 * paint * shade + 0.1 * grey
    rows, columns = np.indices(scene.classes.shape)
    stripes = np.array(_IGNORED_GREYS, np.float32)[(rows + columns) // 6 % 2, None] * (grey + 60)
    warning = np.where(((rows + columns) // 10 % 2 == 0)[..., None], _OUTSIDE_COLOR, 0.7 * grey)
    mixed = np.where((scene.classes == IGNORED)[..., None], stripes, mixed)
    mixed = np.where((scene.classes == OUTSIDE)[..., None], warning, mixed)
    border = np.zeros(scene.classes.shape, bool)
    border[:-1] |= scene.classes[:-1] != scene.classes[1:]
    border[:, :-1] |= scene.classes[:, :-1] != scene.classes[:, 1:]
    mixed[border] = 255
    return mixed.clip(0, 255).round().astype(np.uint8)


def _write_names(axes: Axes, scene: _Scene, names: Sequence[str]) -> None:
    """Write names into the regions, the largest first, where one does not cover another."""
    height, width = scene.classes.shape
    taken: list[tuple[float, float, float, float]] = []
    for i, share in scene.shares.items():
        if i == IGNORED or share < _SMALLEST_NAMED:
            continue
        inside = np.pad((scene.classes == i).astype(np.uint8), 1)  # pictures end at their edge
        if not inside.any():
            continue
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(distance.argmax(), distance.shape)
        text = _name(i, names)
        half = len(text) * _CHARACTER[0] / 2, _CHARACTER[1] / 2
        x = min(max(x, half[0]), max(width - half[0], half[0]))
        y = min(max(y, half[1]), height - half[1])
        box = (x - half[0], y - half[1], x + half[0], y + half[1])
        if any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
            for other in taken
        ):
            continue
        taken.append(box)
        written = axes.text(
            x, y, text, color='white', fontsize=7, ha='center', va='center', parse_math=False
        )
        written.set_path_effects([effects.withStroke(linewidth=2, foreground='black')])
        written.set_clip_on(True)


def _draw_legend(axes: Axes, scene: _Scene, names: Sequence[str], colors: dict) -> None:
    known = [i for i in scene.shares if i >= 0]
    entries = [
        Patch(
            facecolor=np.array(colors[i]) / 255,
            label=f'{_name(i, names)}  {format_share(scene.shares[i])}',
        )
        for i in known[:_MOST_LEGEND_ENTRIES]
    ]
    if len(known) > _MOST_LEGEND_ENTRIES:
        entries.append(Patch(alpha=0, label=f'... {len(known) - _MOST_LEGEND_ENTRIES} more'))
    for i, style in (
        (OUTSIDE, dict(facecolor='#ff00ff', edgecolor='black', hatch='////')),
        (IGNORED, dict(facecolor='#4a4d52', edgecolor='#2a2c2f', hatch='////')),
    ):
        if i in scene.shares:
            share = format_share(scene.shares[i])
            entries.append(Patch(label=f'{_name(i, names)}  {share}', **style))
    legend = axes.legend(
        handles=entries,
        loc='upper left',
        bbox_to_anchor=(0, 1),
        borderaxespad=0,
        borderpad=0,
        fontsize=7.5,
        frameon=False,
        handlelength=1.1,
        handleheight=1.1,
        labelspacing=0.3,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _name(i: int, names: Sequence[str]) -> str:
    if i == IGNORED:
        return '(ignored)'
    if i == OUTSIDE:
        return '(id of no class)'
    return short_name(names[i], _LONGEST_NAME)


def format_share(share: float) -> str:
    """A share in %, with the digits that a small one needs."""
    if share == 0 or share >= 0.0995:
        return f'{100 * share:.0f} %'
    return f'{100 * share:.1f} %' if share >= 0.000_995 else '<0.1 %'


def _write(figure: Figure, x: float, y: float, text: str, *, size: float, color='black') -> None:
    """Write at (x, y), in inches from the lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, fontsize=size, color=color, parse_math=False)
