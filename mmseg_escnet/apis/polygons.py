"""Outlines of label maps as polygons that follow the edges of the pixels.

A polygon has exactly the pixels of its region inside: its area is their number. Regions are
connected by sides of pixels, not by corners.
"""

from __future__ import annotations

import cv2
import numpy as np

Ring = list[list[float]]


def trace_regions(mask: np.ndarray) -> list[tuple[np.ndarray, list[Ring]]]:
    """Outline every region of a mask.

    Args:
        mask: (H, W) bool.

    Returns:
        For each region its pixels, as indices of the flat mask, and its rings, closed, the outer
        one first: points [x, y] in pixels, where [0, 0] is the upper left corner of the image.
    """
    count, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    sizes = np.bincount(regions.ravel(), minlength=count)
    # stable sorts of 16-bit numbers are much faster, and few maps have more regions
    flat = regions.ravel().astype(np.uint16 if count <= 65536 else np.int32)
    pixels = np.split(flat.argsort(kind='stable'), sizes.cumsum()[:-1])
    outer: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    corners, cells = _corners(mask)
    owners = regions[cells[:, 0], cells[:, 1]]
    for ring, first in _rings(corners):
        owner = int(owners[first])
        if _signed_area(ring) > 0:
            outer[owner] = ring
        else:
            holes.setdefault(owner, []).append(ring)
    return [(pixels[owner], [outer[owner], *holes.get(owner, [])]) for owner in range(1, count)]


def simplify_rings(rings: list[Ring], tolerance: float) -> list[Ring]:
    """Leave points out, after which no ring is further than the tolerance from where it was.

    Args:
        rings: As :func:`trace_regions` returns them.
        tolerance: In pixels.

    Returns:
        Closed rings. Holes of which no area is left are dropped; rings may touch each other.
    """
    simplified = []
    for ring in rings:
        points = np.array(ring[:-1], np.float32)[:, None]
        kept = cv2.approxPolyDP(points, tolerance, closed=True)[:, 0].tolist()
        if len(kept) < 3:
            if not simplified:
                return rings  # nothing of the region would be left
            continue
        simplified.append([*kept, kept[0]])
    return simplified


def _corners(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the outlines.

    Where two pixels touch by a corner, the point is a corner of each.

    Returns:
        Corners (P, 5) as y, x; whether an edge leads to the right (else left); whether an edge
        leads down (else up); whether who leaves along the former has the region on the right hand.
        For each a pixel of the region, (P, 2) as y, x.
    """
    padded = np.pad(mask, 1)
    # the four pixels around every point
    above_left, above_right = padded[:-1, :-1], padded[:-1, 1:]
    below_left, below_right = padded[1:, :-1], padded[1:, 1:]
    found, pixels = [], []
    for own, across, others, right, down in (
        (above_left, below_right, above_right | below_left, 0, 0),
        (above_right, below_left, above_left | below_right, 1, 0),
        (below_left, above_right, above_left | below_right, 0, 1),
        (below_right, above_left, above_right | below_left, 1, 1),
    ):
        # a pixel that sticks out, and one that is missing; their edges lead the same ways
        both = ~(above_left & below_right if right != down else above_right & below_left)
        for points, is_set in ((own & ~others, True), (~own & across & ~both, False)):
            y, x = np.nonzero(points)
            corners = np.empty((len(y), 5), int)
            corners[:, 0], corners[:, 1] = y, x
            corners[:, 2:] = right, down, (right == down) == is_set
            found.append(corners)
            pixels.append(
                np.stack([y - 1 + down, x - 1 + right] if is_set else [y - down, x - right], axis=1)
            )
    return np.concatenate(found), np.concatenate(pixels)


def _rings(corners: np.ndarray) -> list[tuple[Ring, int]]:
    """Follow the outlines: in every row, and in every column, corners come in pairs.

    Returns:
        Closed rings without repeated points, around the region in positive, around its holes in
        negative direction; with each the index of one of its corners.
    """
    y, x, right, down, forward = corners.T
    # at one point, the corner whose edge leads back closes its pair before the other opens one
    along_rows = np.lexsort((right, x, y)).reshape(-1, 2)
    along_columns = np.lexsort((down, y, x)).reshape(-1, 2)
    in_row, in_column = np.empty(len(corners), int), np.empty(len(corners), int)
    in_row[along_rows] = along_rows[:, ::-1]
    in_column[along_columns] = along_columns[:, ::-1]
    in_row, in_column = in_row.tolist(), in_column.tolist()
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    seen = [False] * len(points)
    rings = []
    for start in np.flatnonzero(forward).tolist():
        path, index = [], start
        while not seen[index]:
            seen[index] = True
            path += [index, in_row[index]]
            index = in_column[in_row[index]]
        if path:
            rings += _split(path, points)
    return rings


def _split(path: list[int], points: list[tuple[int, int]]) -> list[tuple[Ring, int]]:
    """Divide a path that comes by a point twice into rings that do not."""
    rings, stack, position = [], [], {}
    for index in [*path, path[0]]:
        point = points[index]
        if point in position:
            loop = stack[position[point] :]
            if len(loop) > 2:
                closed = [list(points[i]) for i in loop]
                rings.append(([*closed, closed[0]], loop[0]))
            for other in loop:
                position.pop(points[other], None)
            del stack[len(stack) - len(loop) :]
        position[point] = len(stack)
        stack.append(index)
    return rings


def _signed_area(ring: Ring) -> float:
    x, y = np.array(ring, float).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)
