"""Outlines of regions against plain definitions, on many small masks."""

import sys

import cv2
import numpy as np
import pytest

from mmseg_escnet import ESCNetError
from mmseg_escnet.apis.polygons import trace_regions


def trace(mask, *, min_area=1, tolerance=0.0):
    """Polygons with their areas; every score is 1."""
    pytest.importorskip('shapely', reason='the extra `shapes` is not installed')
    from shapely.geometry import shape

    found = trace_regions(mask, np.ones(mask.shape), min_area=min_area, tolerance=tolerance)
    return [(shape(geometry), measures['area']) for geometry, measures in found]


def test_regions_are_covered_exactly():
    """The centres inside a polygon are its region's pixels, also where pixels touch by corners."""
    shapely = pytest.importorskip('shapely', reason='the extra `shapes` is not installed')
    generator = np.random.default_rng(0)
    with_holes = 0
    for _ in range(400):
        mask = generator.random(generator.integers(1, 9, 2)) < generator.random()
        count, expected = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
        found = trace(mask)
        assert len(found) == count - 1
        y, x = np.indices(mask.shape) + 0.5
        for number, (polygon, area) in enumerate(found, 1):
            np.testing.assert_array_equal(shapely.contains_xy(polygon, x, y), expected == number)
            assert polygon.is_valid
            assert polygon.area == area == (expected == number).sum()
            assert polygon.exterior.is_ccw
            assert polygon.simplify(0).equals_exact(polygon), 'a point on a straight line'
            with_holes += bool(polygon.interiors)
    assert with_holes > 50


def test_simplified_outlines_stay_near_and_small_regions_stay():
    ((stairs, _),) = trace(np.tril(np.ones((30, 30), bool)), tolerance=1.0)
    assert len(stairs.exterior.coords) <= 6
    assert stairs.area == pytest.approx(30 * 31 / 2, rel=0.05)
    ((pixel, _),) = trace(np.eye(1, dtype=bool), tolerance=5.0)
    assert pixel.area > 0


def test_small_regions_are_left_out():
    mask = np.array([[1, 0, 1], [1, 0, 0]], bool)
    assert [area for _, area in trace(mask, min_area=2)] == [2]
    assert trace(np.zeros((3, 4), bool)) == []


def test_without_shapely(monkeypatch):
    monkeypatch.setitem(sys.modules, 'shapely', None)
    mask = np.ones((2, 2), bool)
    with pytest.raises(ESCNetError, match=r'mmseg_escnet\[shapes\]'):
        list(trace_regions(mask, mask, min_area=1, tolerance=0.0))
