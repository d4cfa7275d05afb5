"""NaN and Inf are noticed where they begin, and not by a map of nonsense (ours)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from mmengine.logging import MessageHub
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..errors import ESCNetError

_NAMED = 3


def non_finite(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the tensors that hold a NaN or an Inf."""
    items = tensors.items() if isinstance(tensors, Mapping) else tensors
    return [name for name, tensor in items if not tensor.isfinite().all()]


def named(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    return ', '.join(names[:_NAMED]) + more


def check_weights(weights: Mapping[str, Tensor], *, source: str) -> None:
    """Check that weights about to be loaded are numbers.

    Args:
        weights: By name.
        source: What errors call them.

    Raises:
        ESCNetError: Naming some of those that are not.
    """
    names = non_finite(weights)
    if names:
        raise ESCNetError(
            f'{source} holds numbers that are not finite (NaN or Inf) in {named(names)}: the '
            'training that wrote it diverged, or the file is damaged; give another one.'
        )


def check_losses(
    losses: Mapping[str, Tensor], model: nn.Module, inputs: Tensor, forward: Callable[[], object]
) -> None:
    """Check that what a training step is about to follow downhill is a number.

    Args:
        losses: By name.
        model: Whose they are.
        inputs: Images (B, 3, H, W).
        forward: Computes the losses once more, to find where it begins.

    Raises:
        ESCNetError: Naming the loss, the iteration and the first tensor that is not finite.
    """
    names = [name for name in non_finite(losses) if 'loss' in name]
    if not names:
        return
    iteration = MessageHub.get_current_instance().get_info('iter', 'unknown')
    raise ESCNetError(
        f'{named(names)} is not finite (NaN or Inf) in iteration {iteration}: it begins in '
        f'{origin(model, inputs, forward)}; no weight was changed by it. Go on from the last '
        'checkpoint with a smaller learning rate or, if the type is float16, with bfloat16.'
    )


def check_scores(
    scores: Tensor, model: nn.Module, inputs: Tensor, forward: Callable[[], object]
) -> None:
    """Check that labels are not about to be chosen among NaN.

    Args:
        scores: (B, N, h, w).
        model: Whose they are.
        inputs: Images (B, 3, H, W).
        forward: Computes the scores once more, to find where it begins.

    Raises:
        ESCNetError: Naming the first tensor that is not finite.
    """
    if not scores.isfinite().all():
        raise ESCNetError(
            'The scores are not finite (NaN or Inf): it begins in '
            f'{origin(model, inputs, forward)}. Give other weights, or a larger type if '
            'test_cfg.autocast is float16.'
        )


def origin(model: nn.Module, inputs: Tensor, forward: Callable[[], object]) -> str:
    """Where the first NaN or Inf is.

    Args:
        model: What is looked into.
        inputs: What goes in.
        forward: Runs the model on them.

    Returns:
        The images, some of the weights, or the module whose output has it first.
    """
    if not inputs.isfinite().all():
        return 'the images'
    weights = non_finite(model.state_dict())
    if weights:
        return f'the weights {named(weights)}'
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return 'a module: run it in one process to see which'  # a forward needs all processes
    found: list[str] = []

    def look(name: str, output: object) -> None:
        if not found and any(not tensor.isfinite().all() for tensor in _tensors(output)):
            found.append(name)

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return f'the output of {found[0]}' if found else 'what lies between the modules'


def _tensors(output: object) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)
    elif hasattr(output, '__dataclass_fields__'):
        yield from _tensors(vars(output))
