"""A training that diverges ends, with its last good checkpoint intact."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...errors import ESCNetError
from ...models.finite import named, non_finite


@HOOKS.register_module()
class FiniteHook(Hook):
    """End the training when a gradient has made weights NaN or Inf, before they are saved (ours).

    A loss that is not finite is noticed by :class:`~mmseg_escnet.models.ESCNet` itself before it
    changes any weight. The loss scaler of float16 skips steps whose gradient overflows: those are
    counted, and no error.

    Raises:
        ESCNetError: Naming the weights and the iteration.
    """

    priority = 'HIGH'  # before the checkpoint of the same iteration

    def __init__(self) -> None:
        self.skipped_steps = 0

    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        """Look at the norm that clipping has computed, and at the weights if it is not finite."""
        scalars = runner.message_hub.log_scalars
        norm = scalars['train/grad_norm'].current() if 'train/grad_norm' in scalars else 0.0
        if abs(norm) < float('inf'):  # False for NaN too
            return
        self._check_weights(runner)
        self.skipped_steps += 1
        runner.logger.warning(
            f'Iteration {runner.iter + 1}: the gradient was not finite and the loss scaler skipped '
            f'the step ({self.skipped_steps} so far)'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look at what is about to be saved."""
        self._check(non_finite(checkpoint['state_dict']), runner.iter)

    def _check_weights(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._check(non_finite(model.named_parameters()), runner.iter + 1)

    @staticmethod
    def _check(names: list[str], iteration: int) -> None:
        if names:
            raise ESCNetError(
                f'The weights {named(names)} are not finite (NaN or Inf) after iteration '
                f'{iteration}, because their gradient was not: nothing was saved since; go on from '
                'the last checkpoint with --resume and a smaller learning rate, or with bfloat16 '
                'if the type is float16.'
            )
