"""Drop unlikely classes before the expensive part of the network (ours).

Shapes: N classes, h x w patch grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...errors import ESCNetError

# logit of a dropped class: its probability is 0, but means with other logits stay finite
HOPELESS = -1e4


@dataclass(frozen=True)
class Chosen:
    """The classes of a window that pass through the ESC blocks.

    Attributes:
        ids: (n,) the kept classes, ascending, followed by the representatives of the others.
        counts: (n,) how many classes each represents: 1 for a kept class.
        num_kept: Number of kept classes.
    """

    ids: Tensor
    counts: Tensor
    num_kept: int


@dataclass(frozen=True)
class Shortlist:
    """Selects the classes of a window that pass through the ESC blocks.

    A class's chance is its highest probability at any patch by CLIP's own correlation, with a
    softmax over the classes at each patch. Dropped classes get probability 0. This is an
    approximation, because classes interact. To preserve their interaction with the kept classes,
    a few of the dropped ones, spread evenly over the ranking, represent the others and are weighted
    by the number of classes they represent.

    Attributes:
        top_k: The most classes to keep, by chance; None for no limit.
        threshold: Classes with a smaller chance are dropped, in [0, 1].
        representatives: How many of the dropped classes represent the others.
    """

    top_k: int | None = None
    threshold: float = 0.0
    representatives: int = 8

    def __post_init__(self) -> None:
        if self.top_k is not None and not (isinstance(self.top_k, int) and self.top_k >= 1):
            raise ESCNetError(
                f'test_cfg.shortlist.top_k={self.top_k!r} must be an integer of at least 1, or '
                'None for no limit.'
            )
        if not 0 <= self.threshold <= 1:
            raise ESCNetError(
                f'test_cfg.shortlist.threshold={self.threshold!r} must lie in [0, 1], because it '
                'is a probability.'
            )
        if not (isinstance(self.representatives, int) and self.representatives >= 0):
            raise ESCNetError(
                f'test_cfg.shortlist.representatives={self.representatives!r} must be an integer '
                'of at least 0.'
            )

    @classmethod
    def create(cls, cfg: Mapping[str, object]) -> Shortlist:
        """From ``test_cfg.shortlist``.

        Raises:
            ESCNetError: If it is invalid.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(cfg, Mapping) or not set(cfg) <= known:
            raise ESCNetError(
                f'test_cfg.shortlist={cfg!r} must be a dict with keys from {sorted(known)}.'
            )
        return cls(**cfg)

    def choose(self, correlation: Tensor, logit_scale: Tensor) -> Chosen:
        """Choose the classes of one window.

        Args:
            correlation: C_0 (N, h, w).
            logit_scale: CLIP's, a scalar.

        Returns:
            At least the class with the best chance.
        """
        chance = (correlation.float() * logit_scale.float()).softmax(dim=0).amax(dim=(1, 2))
        chance, ids = chance.sort(descending=True)
        num_kept = max(int((chance >= self.threshold).sum()), 1)
        num_kept = min(num_kept, self.top_k or num_kept)
        dropped = ids[num_kept:]
        count = min(self.representatives, len(dropped))
        kept = ids[:num_kept].sort().values
        if count == 0:
            return Chosen(kept, chance.new_ones(num_kept), num_kept)
        # split the ranking into equal parts and take the middle of each
        middle = ((torch.arange(count, device=ids.device) + 0.5) * len(dropped) / count).long()
        counts = torch.cat(
            [chance.new_ones(num_kept), chance.new_full((count,), len(dropped) / count)]
        )
        return Chosen(torch.cat([kept, dropped[middle]]), counts, num_kept)
