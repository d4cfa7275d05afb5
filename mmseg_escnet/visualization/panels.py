"""A sheet of pictures: image, ground truth, prediction and pseudo prompts side by side.

Shapes: H x W pixels, h x w patch grid, N classes, K objects per class.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..models.necks import PseudoPrompts
from ..vocabulary import Vocabulary
from .report import save_figure

_OVERLAY = 0.75
_OBJECT_COLORS = ('tab:red', 'tab:blue', 'tab:green', 'tab:orange', 'tab:purple', 'tab:brown')


@dataclass
class PanelRow:
    """One image of a sheet.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        truth: (H, W) class ids of the ground truth.
        prediction: (H, W) predicted class ids.
        prompts: The pseudo prompts of a batch whose image ``index`` this is.
        index: Its place in the batch.
        class_id: The class whose prompts are drawn.
    """

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    prompts: PseudoPrompts
    index: int
    class_id: int


def paint_labels(labels: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Colour a label map; ids outside the vocabulary (ignored pixels) become black.

    Args:
        labels: (H, W) class ids.
        vocabulary: Names and colours of the N classes.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    palette = np.zeros((len(vocabulary) + 1, 3), np.uint8)
    palette[:-1] = vocabulary.palette
    known = (labels >= 0) & (labels < len(vocabulary))
    return palette[np.where(known, labels, len(vocabulary))]


def overlay_labels(image: np.ndarray, labels: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Colour a label map and let the image shine through.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) class ids.
        vocabulary: Names and colours of the N classes.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    mixed = _OVERLAY * paint_labels(labels, vocabulary) + (1 - _OVERLAY) * image
    return mixed.round().astype(np.uint8)


def draw_pseudo_prompts(
    axes: Axes, image: np.ndarray, prompts: PseudoPrompts, index: int, class_id: int
) -> None:
    """Draw one class's region (white) and objects: points, and masks as coloured patches.

    Args:
        axes: Where to draw.
        image: (H, W, 3) uint8, RGB.
        prompts: Pseudo prompts of a batch of images.
        index: The image of the batch.
        class_id: The class.
    """
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0))
    region = prompts.region[index, class_id].cpu().numpy()
    if not region.all():  # a region without an end has no outline
        fine = np.kron(region, np.ones((8, 8)))  # so that the contour follows the patches
        axes.contour(fine, levels=[0.5], colors='white', linewidths=1, extent=(0, width, 0, height))
    valid = prompts.valid[index, class_id].cpu().numpy()
    masks = prompts.masks[index, class_id].cpu().numpy()
    points = prompts.points[index, class_id].cpu().numpy() * (width, height)
    for number in np.flatnonzero(valid):
        color = _OBJECT_COLORS[number % len(_OBJECT_COLORS)]
        layer = np.broadcast_to(to_rgba(color), (*masks[number].shape, 4)).copy()
        layer[..., 3] = 0.6 * masks[number]
        axes.imshow(layer, extent=(0, width, height, 0), interpolation='nearest')
        axes.plot(*points[number], marker='*', markersize=11, color=color, markeredgecolor='white')


def save_panels(rows: Sequence[PanelRow], vocabulary: Vocabulary, path: str | os.PathLike) -> Path:
    """Draw a sheet with a row for each image, and a legend of the classes in it.

    Args:
        rows: The images.
        vocabulary: Names and colours of the classes.
        path: PNG to write; it is there whole or not at all.

    Returns:
        The path.
    """
    titles = ('image', 'ground truth', 'prediction', 'pseudo prompts')
    figure = Figure(figsize=(2.4 * len(titles) + 2.4, 2.55 * len(rows)), layout='constrained')
    grid = figure.subplots(len(rows), len(titles) + 1, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        pictures = [
            row.image,
            overlay_labels(row.image, row.truth, vocabulary),
            overlay_labels(row.image, row.prediction, vocabulary),
        ]
        for panel, picture, title in zip(axes, pictures, titles, strict=False):
            panel.imshow(picture)
            panel.set_title(title, fontsize=9)
        draw_pseudo_prompts(axes[3], row.image, row.prompts, row.index, row.class_id)
        axes[3].set_title(f'prompts for {vocabulary.names[row.class_id]!r}', fontsize=9)
        shown = np.union1d(np.unique(row.truth), np.unique(row.prediction))
        axes[4].legend(
            handles=[
                Patch(color=np.array(vocabulary.palette[i]) / 255, label=vocabulary.names[i])
                for i in shown
                if 0 <= i < len(vocabulary)
            ],
            loc='center left',
            fontsize=7,
            frameon=False,
        )
        for panel in axes:
            panel.axis('off')
    return save_figure(figure, path, dpi=90)
