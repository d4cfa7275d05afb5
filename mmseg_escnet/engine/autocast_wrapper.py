"""Mixed precision on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAutocastOptimWrapper(OptimWrapper):
    """MMEngine's ``OptimWrapper`` with bfloat16 autocast on a CPU.

    MMEngine's ``AmpOptimWrapper`` needs a GPU. bfloat16 has the range of float32, so losses need no
    scaling.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Compute the losses under autocast."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield
