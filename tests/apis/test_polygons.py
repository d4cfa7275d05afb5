"""Outlines of regions against plain definitions, on many small masks."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from matplotlib.path import Path

from mmseg_escnet.apis.polygons import simplify_rings, trace_regions


def area(ring) -> float:
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2


def masks():
    """Of all densities, up to 8 x 8 pixels; pixels that touch by corners are frequent."""
    generator = np.random.default_rng(0)
    for _ in range(400):
        yield generator.random(generator.integers(1, 9, 2)) < generator.random()


def test_regions_are_covered_exactly():
    """Each pixel's centre lies inside the outer ring of its region and in none of its holes."""
    with_holes = 0
    for mask in masks():
        count, expected = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
        y, x = np.indices(mask.shape).reshape(2, -1)
        regions = trace_regions(mask)
        assert len(regions) == count - 1
        for number, (pixels, (outer, *holes)) in enumerate(regions, 1):
            covered = Path(outer).contains_points(np.stack([x, y], axis=1) + 0.5)
            for hole in holes:
                covered &= ~Path(hole).contains_points(np.stack([x, y], axis=1) + 0.5)
            np.testing.assert_array_equal(covered, expected.ravel() == number)
            np.testing.assert_array_equal(pixels, np.flatnonzero(covered))
            with_holes += bool(holes)
    assert with_holes > 50


def test_rings_are_simple_and_turn_the_right_way():
    for mask in masks():
        for pixels, (outer, *holes) in trace_regions(mask):
            assert area(outer) > 0
            assert all(area(hole) < 0 for hole in holes)
            assert area(outer) + sum(map(area, holes)) == len(pixels)
            for ring in (outer, *holes):
                assert ring[0] == ring[-1]
                assert len(set(map(tuple, ring))) == len(ring) - 1
                sides = np.abs(np.diff(ring, axis=0))
                assert (sides.min(axis=1) == 0).all()
                assert (sides.max(axis=1) > 0).all()
                turns = sides[:, 0] > 0
                assert (turns != np.roll(turns, 1)).all(), 'a point on a straight line'


@pytest.mark.parametrize('mask', [np.zeros((3, 4), bool), np.ones((3, 4), bool)])
def test_nothing_and_everything(mask):
    regions = trace_regions(mask)
    assert len(regions) == mask.any()
    if regions:
        ((pixels, (ring,)),) = regions
        assert len(pixels) == 12
        assert sorted(ring[1:]) == [[0, 0], [0, 3], [4, 0], [4, 3]]


def test_simplified_rings_stay_near_and_small_ones_whole():
    stairs = np.tril(np.ones((30, 30), bool))
    ((_, rings),) = trace_regions(stairs)
    (simple,) = simplify_rings(rings, 1.0)
    assert len(simple) == 4
    mask = np.zeros((3, 3), bool)
    mask[1, 1] = True
    ((_, rings),) = trace_regions(mask)
    assert simplify_rings(rings, 5.0) == rings
