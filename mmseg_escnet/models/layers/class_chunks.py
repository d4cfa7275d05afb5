"""Processing the classes of a vocabulary in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# 16 classes on 24 x 24 patches, or 32 under autocast: results of operations on a chunk then stay
# below 32 MB, above which glibc requests memory from the system each time, page by page
_CPU_TOKENS = 16 * 24 * 24
# generous estimate of the peak memory per token of a class, in bytes, in full precision
_TOKEN_BYTES = 24 * 1024
_MEMORY_SHARE = 0.25  # of the free memory of a GPU
_MOST_GPU_TOKENS = 256 * 24 * 24  # more gains nothing


@dataclass(frozen=True)
class ClassChunks:
    """Passes classes through the network in chunks, so that memory does not grow with N.

    Attributes:
        size: Classes per chunk; None for all at once, without a loop, so that a traced graph works
            with any number of classes.
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
            size: Classes per chunk; 'auto' for as many as fit a CPU's cache or a GPU's free memory,
                'all' for all at once.
            num_tokens: Positions of the patch grids of all images of a batch, B * h * w.
            device: Device of the tensors.
            recompute: See the class.
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
        """Split a tensor along its class dimension."""
        return (classes,) if self.size is None else classes.split(self.size, dim=dim)

    def collect(
        self, parts: Iterable[Tensor], num_classes: int, out: Tensor | None = None
    ) -> Tensor:
        """Concatenate chunks.

        Args:
            parts: Chunks (B, n, ...) in order.
            num_classes: N, the total number of classes.
            out: (B, N, ...), overwritten chunk by chunk as ``parts`` is consumed, if no gradient is
                computed.

        Returns:
            (B, N, ...).
        """
        if self.size is None or torch.is_grad_enabled():
            return torch.cat(tuple(parts), dim=1)
        # into one tensor: separate chunks would fragment the CPU's heap to three times their size
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
