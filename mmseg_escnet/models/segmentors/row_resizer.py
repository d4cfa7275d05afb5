"""Bilinear resizing of which only some rows are computed.

Shapes: n maps of height x width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Numbers at a time: what fits the cache of a processor's core, and at most, what keeps a GPU busy.
_TILE_OF_CORE = 1 << 19
_TILE = 1 << 24
_TILE_CLASSES = 16  # or more: the best of every tile is compared with that of those before


def tile(num_classes: int, width: int, device: torch.device) -> tuple[int, int]:
    """How many rows of how many classes to compute at a time, for rows of a width in pixels."""
    numbers = _TILE
    if device.type == 'cpu':
        numbers = min(_TILE_OF_CORE * torch.get_num_threads(), _TILE)
    rows = max(numbers // (width * min(num_classes, _TILE_CLASSES)), 1)
    return rows, max(numbers // (width * rows), 1)


class RowResizer:
    """Resizes as ``torch.nn.functional.interpolate`` does.

    Args:
        source: (height, width) before.
        target: (height, width) afterwards.
        align_corners: As ``interpolate`` takes it.
    """

    def __init__(
        self, source: tuple[int, int], target: tuple[int, int], align_corners: bool
    ) -> None:
        self.source, self.target = tuple(source), tuple(target)
        self._align_corners = align_corners
        # PyTorch's own rule: where in the source each row of the target lies
        numbers = torch.arange(source[0], dtype=torch.float64)
        place = self._linear(numbers[None, None], target[0])[0, 0]
        self._low, self._high = place.floor().long(), place.ceil().long()
        self._weight = (place - self._low).float()[:, None]

    def needs(self, first: int, last: int) -> tuple[int, int]:
        """The rows of the source, from and to, that rows of the target are made from."""
        return int(self._low[first]), int(self._high[last - 1]) + 1

    def resize(self, rows: Tensor, first: int, last: int) -> Tensor:
        """Compute some rows of the target.

        Args:
            rows: (n, height, width) of the source: those that are needed, see :meth:`needs`.
            first: Row of the target to begin with.
            last: Row before which to end.

        Returns:
            (n, last - first, width); ``rows`` itself where nothing changes.
        """
        if self.source[1] != self.target[1]:
            rows = self._linear(rows, self.target[1])
        if self.source[0] == self.target[0]:
            return rows
        # the width first: neighbouring rows of the target share those of the source
        start = self._low[first]
        low, high, weight = (
            table[first:last].to(rows.device, non_blocking=True)
            for table in (self._low - start, self._high - start, self._weight)
        )
        return rows.index_select(1, low).lerp_(rows.index_select(1, high), weight)

    def _linear(self, lines: Tensor, length: int) -> Tensor:
        return F.interpolate(lines, length, mode='linear', align_corners=self._align_corners)
