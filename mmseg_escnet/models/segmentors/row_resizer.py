"""Resizing of maps a few rows at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class RowResizer:
    """Bilinear ``torch.nn.functional.interpolate`` of which only some rows are computed.

    Args:
        source: (height, width) before.
        target: (height, width) afterwards.
        align_corners: As for ``interpolate``.
    """

    def __init__(self, source: Sequence[int], target: Sequence[int], align_corners: bool) -> None:
        self.source, self.target = tuple(source), tuple(target)
        self._align_corners = align_corners
        # PyTorch's own rule: where in the source each row of the target lies
        numbers = torch.arange(source[0], dtype=torch.float64)
        place = self._linear(numbers[None, None], target[0])[0, 0]
        self._low, self._high = place.floor().long(), place.ceil().long()
        self._weight = (place - self._low).float()[:, None]

    def needs(self, rows: slice) -> slice:
        """The rows of the source that some rows of the target are made from."""
        return slice(int(self._low[rows.start]), int(self._high[rows.stop - 1]) + 1)

    def resize(self, maps: Tensor, rows: slice) -> Tensor:
        """Compute some rows (n, rows, width) of the target; ``maps`` itself if nothing changes.

        Args:
            maps: (n, height, width): the rows of the source that these need.
            rows: Of the target.
        """
        if self.source[1] != self.target[1]:
            maps = self._linear(maps, self.target[1])
        if self.source[0] == self.target[0]:
            return maps
        # the width first: neighbouring rows of the target share those of the source
        start = self._low[rows.start]
        low, high, weight = (
            table[rows].to(maps.device, non_blocking=True)
            for table in (self._low - start, self._high - start, self._weight)
        )
        return maps.index_select(1, low).lerp_(maps.index_select(1, high), weight)

    def _linear(self, lines: Tensor, length: int) -> Tensor:
        return F.interpolate(lines, length, mode='linear', align_corners=self._align_corners)
