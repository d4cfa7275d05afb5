"""A training that diverges ends, with its last good checkpoint intact."""

import math

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...errors import ESCNetError
from ...models.finite import first_few, non_finite


@HOOKS.register_module()
class FiniteHook(Hook):
    """End the training when a loss or the weights are NaN or Inf, before anything is saved (ours).

    The loss scaler of float16 skips steps whose gradient overflows: those are counted, and no
    error.

    Raises:
        ESCNetError: Naming the losses or weights and the iteration.
    """

    priority = 'HIGH'  # before the checkpoint of the same iteration

    def __init__(self) -> None:
        self.skipped_steps = 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Look at the losses, and where the norm that clipping computed is not finite at weights.

        MMEngine has copied these numbers from the GPU for its log; here they are read from there.
        """
        scalars = runner.message_hub.log_scalars

        def is_finite(name: str) -> bool:
            return math.isfinite(scalars[f'train/{name}'].current())

        losses = [name for name in outputs or () if 'loss' in name and not is_finite(name)]
        self._check('The training losses', losses, runner.iter + 1)
        if 'train/grad_norm' not in scalars or is_finite('grad_norm'):
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._check('The weights', non_finite(model.named_parameters()), runner.iter + 1)
        self.skipped_steps += 1
        runner.logger.warning(
            f'Iteration {runner.iter + 1}: the gradient was not finite and the loss scaler skipped '
            f'the step ({self.skipped_steps} so far)'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look at what is about to be saved."""
        self._check('The weights', non_finite(checkpoint['state_dict']), runner.iter)

    @staticmethod
    def _check(what: str, names: list[str], iteration: int) -> None:
        if names:
            raise ESCNetError(
                f'{what} {first_few(names)} are not finite (NaN or Inf) after iteration '
                f'{iteration}: nothing was saved since; resume from the last checkpoint with '
                '--resume and a smaller learning rate, or with bfloat16 if the type is float16, '
                'and check the images if that does not help.'
            )
