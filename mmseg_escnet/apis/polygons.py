"""Regions of a label map as polygons, by shapely (the extra ``shapes``)."""

from collections.abc import Iterator

import cv2
import numpy as np

from ..errors import ESCNetError


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
    try:
        import shapely
    except ImportError as error:
        raise ESCNetError("Polygons need shapely: pip install 'mmseg_escnet[shapes]'.") from error
    count, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    areas = np.bincount(regions.ravel(), minlength=count)
    sums = np.bincount(regions.ravel(), scores.ravel(), minlength=count)
    # runs: stretches of a row within one region, sorted by region
    y, left = np.nonzero(np.diff(regions, axis=1, prepend=-1))
    right = np.append(left[1:], 0)
    right[right == 0] = mask.shape[1]  # the next run starts a row, so this one ends one
    owners = regions[y, left]
    order = np.argsort(owners, kind='stable')
    runs = np.split(order, np.bincount(owners, minlength=count).cumsum()[:-1])
    for region in range(1, count):
        if areas[region] >= min_area:
            own = runs[region]
            union = shapely.union_all(shapely.box(left[own], y[own], right[own], y[own] + 1))
            polygon = shapely.orient_polygons(union.simplify(tolerance))
            area, score = int(areas[region]), float(sums[region] / areas[region])
            yield shapely.geometry.mapping(polygon), dict(area=area, score=score)
