"""RowResizer against PyTorch's resizing of everything at once."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_escnet.models.segmentors import row_resizer
from mmseg_escnet.models.segmentors.row_resizer import RowResizer, tile

SIZES = [
    ((6, 9), (24, 36)),
    ((24, 36), (6, 9)),
    ((7, 5), (23, 4)),
    ((8, 8), (8, 8)),
    ((8, 5), (8, 11)),
    ((5, 8), (11, 8)),
    ((1, 1), (9, 7)),
    ((9, 7), (1, 1)),
    ((96, 96), (384, 384)),
    ((640, 640), (683, 512)),
]


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize(('source', 'target'), SIZES, ids=str)
def test_any_rows(source, target, align_corners):
    """Band by band, from the rows that are said to be needed and no others."""
    maps = torch.randn(3, *source)
    expected = F.interpolate(maps[None], target, mode='bilinear', align_corners=align_corners)[0]
    resizer = RowResizer(source, target, align_corners)
    for step in (1, 2, 5, target[0]):
        for first in range(0, target[0], step):
            last = min(first + step, target[0])
            low, high = resizer.needs(first, last)
            assert 0 <= low < high <= source[0]
            found = resizer.resize(maps[:, low:high], first, last)
            # PyTorch's own places are of float32: off by 1e-4 of a pixel beyond the 600th
            torch.testing.assert_close(found, expected[:, first:last], rtol=1e-4, atol=5e-4)


def test_no_more_rows_than_needed():
    assert RowResizer((8, 8), (8, 8), False).needs(2, 5) == (2, 5)
    assert RowResizer((8, 8), (16, 16), False).needs(3, 5) == (1, 3)


def test_maps_are_not_changed():
    maps = torch.randn(3, 6, 9)
    copy = maps.clone()
    RowResizer((6, 9), (12, 9), False).resize(maps, 0, 12)
    assert maps.equal(copy)


@pytest.mark.parametrize('width', [1, 640, 4000, 100_000_000])
@pytest.mark.parametrize('num_classes', [1, 20, 847])
def test_tiles_are_bounded(num_classes, width):
    """What is held at a time does not grow with the classes, nor with the image."""
    for device in ('cpu', 'cuda'):
        rows, classes = tile(num_classes, width, torch.device(device))
        assert min(rows, classes) >= 1
        assert rows * classes * width <= max(row_resizer._TILE, width)
