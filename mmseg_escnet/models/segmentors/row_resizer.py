"""Resizing of maps a few rows at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class RowResizer:
    """Bilinear ``torch.nn.functional.interpolate``, computed for some rows only.

    Args:
        source: Input (height, width).
        target: Output (height, width).
        align_corners: As for ``interpolate``.
    """

    def __init__(self, source: Sequence[int], target: Sequence[int], align_corners: bool) -> None:
        self.source, self.target = tuple(source), tuple(target)
        self._align_corners = align_corners
        # by PyTorch's own rule: the position of each target row in the source
        numbers = torch.arange(source[0], dtype=torch.float64)
        place = self._linear(numbers[None, None], target[0])[0, 0]
        self._low, self._high = place.floor().long(), place.ceil().long()
        self._weight = (place - self._low).float()[:, None]

    def needs(self, rows: slice) -> slice:
        """The source rows that some target rows depend on."""
        return slice(int(self._low[rows.start]), int(self._high[rows.stop - 1]) + 1)

    def resize(self, maps: Tensor, rows: slice) -> Tensor:
        """Compute some target rows (n, rows, width); returns ``maps`` itself if nothing changes.

        Args:
            maps: (n, height, width): the source rows that they need, see :meth:`needs`.
            rows: Target rows.
        """
        if self.source[1] != self.target[1]:
            maps = self._linear(maps, self.target[1])
        if self.source[0] == self.target[0]:
            return maps
        # the width first: neighbouring target rows share source rows
        start = self._low[rows.start]
        low, high, weight = (
            table[rows].to(maps.device, non_blocking=True)
            for table in (self._low - start, self._high - start, self._weight)
        )
        return maps.index_select(1, low).lerp_(maps.index_select(1, high), weight)

    def _linear(self, lines: Tensor, length: int) -> Tensor:
        return F.interpolate(lines, length, mode='linear', align_corners=self._align_corners)
