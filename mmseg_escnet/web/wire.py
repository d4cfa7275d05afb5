"""Results in the form in which the page's viewer (viewer.js) reads them.

Maps of pixels travel as base64 of zlib, not as pictures: what a browser reads back from a picture
is not always what was in it (colour management, protection against fingerprinting).

Shapes: H x W pixels of the image; h x w of what is shown, whose longer side has up to 1600.
"""

from __future__ import annotations

import base64
import io
import zlib

import cv2
import matplotlib
import numpy as np
from PIL import Image

from ..apis.result import SegmentationResult

_LONGEST_SIDE = 1600
_SMALL = 480  # up to this longer side pictures are sent without loss
_COLORMAP = 'viridis'


def picture_message(image: np.ndarray) -> dict:
    """A picture alone, (H, W, 3) uint8 in RGB."""
    return dict(kind='picture', picture=_data_url(image), **_size(image))


def result_message(result: SegmentationResult, key: str) -> dict:
    """A result.

    Args:
        result: The result.
        key: By what the viewer tells the scores of this result from those of others.

    Returns:
        ``picture`` (data URL), ``labels`` (h x w, uint16, little-endian), ``scores`` (h x w, uint8:
        255 is 1), ``width`` and ``height``; ``classes``: ``id``, ``name``, ``color`` (R, G, B) and
        ``share`` of the pixels of all N, the largest first.
    """
    counts = np.bincount(result.labels.ravel(), minlength=len(result.classes))
    order = np.argsort(-counts[: len(result.classes)], kind='stable')
    return dict(
        kind='result',
        key=key,
        picture=_data_url(result.image),
        labels=_pack(_shrink(result.labels).astype('<u2')),
        scores=_pack((_shrink(result.scores) * 255).round().astype(np.uint8)),
        classes=[
            dict(
                id=int(i),
                name=result.classes[i],
                color=[int(value) for value in result.palette[i]],
                share=float(counts[i] / result.labels.size),
            )
            for i in order
        ],
        **_size(result.labels),
    )


def scores_message(result: SegmentationResult, key: str, class_id: int) -> dict:
    """The score map of one class.

    Returns:
        ``class_id``; ``highest``, its highest score; ``map`` (h x w, uint8: 255 is the highest);
        ``colors``, 256 of (R, G, B) for the values of the map.
    """
    scores = _shrink(result.class_scores(class_id))
    highest = float(scores.max())
    colors = matplotlib.colormaps[_COLORMAP](np.arange(256), bytes=True)[:, :3]
    return dict(
        kind='scores',
        key=key,
        class_id=class_id,
        highest=highest,
        map=_pack((scores * (255 / max(highest, 1e-12))).round().astype(np.uint8)),
        colors=base64.b64encode(colors.tobytes()).decode(),
    )


def _shown_size(array: np.ndarray) -> tuple[int, int]:
    """(w, h) of an array of (H, W, ...)."""
    height, width = array.shape[:2]
    factor = min(1, _LONGEST_SIDE / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _size(array: np.ndarray) -> dict[str, int]:
    return dict(zip(('width', 'height'), _shown_size(array), strict=True))


def _shrink(array: np.ndarray) -> np.ndarray:
    """A map, (H, W) -> (h, w), each value one of the map's own."""
    return cv2.resize(array, _shown_size(array), interpolation=cv2.INTER_NEAREST)


def _data_url(image: np.ndarray) -> str:
    small = max(image.shape[:2]) <= _SMALL
    image = cv2.resize(image, _shown_size(image), interpolation=cv2.INTER_AREA)
    buffer = io.BytesIO()
    if small:
        Image.fromarray(image).save(buffer, 'PNG')
    else:
        Image.fromarray(image).save(buffer, 'JPEG', quality=90)
    kind = 'png' if small else 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}'


def _pack(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(array.tobytes(), 6)).decode()
