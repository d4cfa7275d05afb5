"""MMEngine's FSDP for a model that contains a CLIP."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn as nn
from mmengine._strategy import FSDPStrategy
from mmengine.optim import BaseOptimWrapper, OptimWrapper
from mmengine.registry import STRATEGIES
from torch.distributed.fsdp import FullyShardedDataParallel


@STRATEGIES.register_module()
class ESCNetFSDPStrategy(FSDPStrategy):
    """MMEngine's ``FSDPStrategy`` with four fixes.

    - CLIP's logit scale is a scalar, which FSDP cannot shard: every process keeps it. It is frozen,
      so nothing has to be synchronised.
    - Gradients are clipped by their norm over all processes, as ``FullyShardedDataParallel`` does;
      MMEngine would clip each shard by its own norm.
    - The optimiser state is loaded with the argument order of PyTorch 2.1 and later.
    - Without a GPU the model stays on the CPU.

    Arguments are those of ``FSDPStrategy``. Checkpoints written with ``state_dict_cfg='full'`` can
    be loaded by any number of processes.
    """

    def _wrap_model(self, model: nn.Module) -> FullyShardedDataParallel:
        wrapper = dict(self.model_wrapper or {})
        wrapper['ignored_states'] = [p for p in model.parameters() if p.dim() == 0]
        if not torch.cuda.is_available():
            wrapper['device_id'] = torch.device('cpu')
            # FSDP would offload tensors that are on the CPU already, and free the originals
            self.state_dict_config.offload_to_cpu = False
            self.optim_state_dict_config.offload_to_cpu = False
        self.model_wrapper = wrapper
        return super()._wrap_model(model)

    def build_optim_wrapper(self, *args, **kwargs) -> BaseOptimWrapper:
        """Build it as ``FSDPStrategy`` does, clipping by the norm over all processes."""
        optim_wrapper = super().build_optim_wrapper(*args, **kwargs)
        if getattr(optim_wrapper, 'clip_func', None) is nn.utils.clip_grad_norm_:
            # not only clip_func: a process whose shard is frozen would not call it, and the others
            # would wait forever
            optim_wrapper._clip_grad = partial(self._clip_grad_norm, optim_wrapper)
        return optim_wrapper

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the optimiser state of all processes from a checkpoint."""
        optimizer = self.optim_wrapper.optimizer
        state_dict = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(state_dict)

    def _clip_grad_norm(self, optim_wrapper: OptimWrapper) -> None:
        norm = self.model.clip_grad_norm_(**optim_wrapper.clip_grad_kwargs)
        optim_wrapper.message_hub.update_scalar(f'train/{optim_wrapper.grad_name}', float(norm))
