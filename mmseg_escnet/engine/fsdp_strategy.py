"""MMEngine's FSDP for a model with a CLIP in it."""

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
    """MMEngine's ``FSDPStrategy`` with four things that it leaves to the user.

    - CLIP's logit scale is a scalar, which FSDP cannot divide among processes: every process keeps
      the whole of it. It is frozen, so there is nothing to be exchanged.
    - Gradients are clipped by their norm over all processes, as ``FullyShardedDataParallel`` does
      it. MMEngine would clip the share of each process by the norm of that share.
    - The state of the optimiser is loaded in the order of arguments that PyTorch has had since 2.1.
    - Without a GPU the model stays on the CPU.

    Its arguments are those of ``FSDPStrategy``. ``state_dict_cfg='full'`` writes checkpoints that
    any number of processes can load.
    """

    def _wrap_model(self, model: nn.Module) -> FullyShardedDataParallel:
        wrapper = dict(self.model_wrapper or {})
        wrapper['ignored_states'] = [p for p in model.parameters() if p.dim() == 0]
        if not torch.cuda.is_available():
            wrapper['device_id'] = torch.device('cpu')
            # what is on the CPU already would be moved there, and freed where it was
            self.state_dict_config.offload_to_cpu = False
            self.optim_state_dict_config.offload_to_cpu = False
        self.model_wrapper = wrapper
        return super()._wrap_model(model)

    def build_optim_wrapper(self, *args, **kwargs) -> BaseOptimWrapper:
        """As ``FSDPStrategy``'s, with the norm over all processes."""
        optim_wrapper = super().build_optim_wrapper(*args, **kwargs)
        if getattr(optim_wrapper, 'clip_func', None) is nn.utils.clip_grad_norm_:
            # all of it: a process whose share is frozen has nothing to clip, and would not call
            # clip_func, in which the others would wait for it
            optim_wrapper._clip_grad = partial(self._clip_grad_norm, optim_wrapper)
        return optim_wrapper

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Give the optimiser back the state that a checkpoint holds for all processes."""
        optimizer = self.optim_wrapper.optimizer
        state_dict = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(state_dict)

    def _clip_grad_norm(self, optim_wrapper: OptimWrapper) -> None:
        norm = self.model.clip_grad_norm_(**optim_wrapper.clip_grad_kwargs)
        optim_wrapper.message_hub.update_scalar(f'train/{optim_wrapper.grad_name}', float(norm))
