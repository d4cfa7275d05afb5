"""Label maps as pictures.

Shapes: H x W pixels, N classes.
"""

from __future__ import annotations

import numpy as np

from ..vocabulary import Vocabulary

_OVERLAY = 0.75


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
