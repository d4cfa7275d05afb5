"""Regions of a label map as polygons, by shapely (the extra ``shapes``)."""

from collections.abc import Iterator
from types import ModuleType

import cv2
import numpy as np

from ..errors import ESCNetError


def load_shapely() -> ModuleType:
    """Import shapely.

    Raises:
        ESCNetError: If it is not installed.
    """
    try:
        import shapely
    except ImportError as error:
        raise ESCNetError("Polygons need shapely: pip install 'mmseg_escnet[shapes]'.") from error
    return shapely


def trace_regions(
    mask: np.ndarray, scores: np.ndarray, *, min_area: int, tolerance: float
) -> Iterator[tuple[dict, dict]]:
    """Outline the 4-connected regions of a mask along the edges of their pixels.

    Args:
        mask: (H, W) bool.
        scores: (H, W).
        min_area: Smaller regions are left out, in pixels.
        tolerance: How far simplification may move an outline, in pixels.

    Yields:
        GeoJSON geometry (a ``Polygon`` with holes) of each region; its ``area`` in pixels and mean
        ``score``.

    Raises:
        ESCNetError: If shapely is not installed.
    """
    shapely = load_shapely()
    count, regions, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=4
    )
    for region in range(1, count):
        left, top, width, height, area = stats[region].tolist()
        if area < min_area:
            continue
        box = np.s_[top : top + height, left : left + width]
        inside = regions[box] == region
        # where the runs of each row begin and end
        y, x = np.nonzero(np.diff(inside, axis=1, prepend=False, append=False))
        y, x = y + top, x + left
        union = shapely.union_all(shapely.box(x[::2], y[::2], x[1::2], y[::2] + 1))
        polygon = shapely.orient_polygons(union.simplify(tolerance))
        score = float(scores[box][inside].mean(dtype=np.float64))
        yield shapely.geometry.mapping(polygon), dict(area=area, score=score)
