"""Label maps and pseudo prompts as pictures.

Shapes: H x W pixels, h x w patch grid, N classes, K objects per class.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from ..models.necks import PseudoPrompts
from ..vocabulary import Vocabulary

_OVERLAY = 0.75
_OBJECT_COLORS = ('tab:red', 'tab:blue', 'tab:green', 'tab:orange', 'tab:purple', 'tab:brown')


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
