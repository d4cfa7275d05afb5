"""The classes of a vocabulary, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# 16 classes on 24 x 24 patches, or 32 under autocast: what an operation makes of a chunk then stays
# below 32 MB, from which on glibc takes it from the system anew each time, page by page
_CPU_TOKENS = 16 * 24 * 24
# what a token of a class may need at a time in bytes, in full precision, with room to spare
_TOKEN_BYTES = 24 * 1024
_MEMORY_SHARE = 0.25  # of the free memory of a GPU
_MOST_GPU_TOKENS = 256 * 24 * 24  # beyond which nothing is gained


@dataclass(frozen=True)
class ClassChunks:
    """How classes go through the network: a chunk at a time, so that memory does not grow with N.

    Attributes:
        size: Classes of a chunk; None for all at once, without a loop: what is traced then is the
            graph of any number of classes.
        recompute: Recompute each chunk in the backward pass instead of keeping its activations.
    """

    size: int | None
    recompute: bool = False

    @classmethod
    def create(
        cls,
        size: int | Literal['auto', 'all'],
        *,
        num_tokens: int,
        device: torch.device,
        recompute: bool = False,
    ) -> ClassChunks:
        """Choose the size.

        Args:
            size: Classes of a chunk; 'auto' for as many as the cache of a processor or the free
                memory of a GPU suggests, 'all' for all at once.
            num_tokens: Positions of the patch grids of all images of a batch, B * h * w.
            device: Where they are.
            recompute: See above.
        """
        if size == 'all':
            size = None
        elif size == 'auto':
            one = torch.zeros(1, 1)
            budget = _CPU_TOKENS * 4 // (one @ one).dtype.itemsize  # 2 bytes under autocast
            if device.type == 'cuda':
                free = torch.cuda.mem_get_info(device)[0]
                free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
                budget = min(int(free * _MEMORY_SHARE) // _TOKEN_BYTES, _MOST_GPU_TOKENS)
            size = max(1, budget // num_tokens)
        return cls(size=size, recompute=recompute)

    def split(self, classes: Tensor, dim: int) -> tuple[Tensor, ...]:
        """The chunks of a tensor that has the classes along a dimension."""
        return (classes,) if self.size is None else classes.split(self.size, dim=dim)

    def collect(
        self, parts: Iterable[Tensor], num_classes: int, out: Tensor | None = None
    ) -> Tensor:
        """Put chunks together again.

        Args:
            parts: Chunks (B, n, ...) in their order.
            num_classes: N, of all of them.
            out: (B, N, ...) that may be overwritten, chunk by chunk as they are asked for, if no
                gradient is computed.

        Returns:
            (B, N, ...).
        """
        if self.size is None or torch.is_grad_enabled():
            return torch.cat(tuple(parts), dim=1)
        # into one tensor: kept one by one, the chunks would tear the heap of a processor to three
        # times their size
        first = 0
        for part in parts:
            if out is None:
                out = part.new_empty(len(part), num_classes, *part.shape[2:])
            out[:, first : first + part.shape[1]] = part
            first += part.shape[1]
        return out

    def run(self, function: Callable, *args: Any) -> Any:
        """Call a function on a chunk."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)
