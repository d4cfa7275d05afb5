"""Hooks for non-finite numbers, interruptions, and the log of a test."""

from __future__ import annotations

import math
import signal
import threading
from pathlib import Path
from types import FrameType

import torch
from mmengine import dist
from mmengine.hooks import EMAHook, Hook, LoggerHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..errors import ESCNetError, first_few
from ..models.finite import non_finite
from .checkpoints import AtomicCheckpointHook, checkpoints
from .training_log import say


@HOOKS.register_module()
class FiniteHook(Hook):
    """Stop training when a loss or the weights are NaN or Inf, before anything is saved (ours).

    Steps skipped by the loss scaler of float16 because of a gradient overflow are only counted.

    Raises:
        ESCNetError: With the losses or weights and the iteration.
    """

    priority = 'HIGH'  # before the checkpoint of the same iteration

    def __init__(self) -> None:
        self.skipped_steps = 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Check the losses, and the weights if the gradient norm of clipping is not finite."""
        scalars = runner.message_hub.log_scalars  # MMEngine has copied them from the GPU

        def is_finite(name: str) -> bool:
            return math.isfinite(scalars[f'train/{name}'].current())

        losses = [name for name in outputs or () if 'loss' in name and not is_finite(name)]
        self._check('The training losses', losses, runner.iter + 1)
        if 'train/grad_norm' not in scalars or is_finite('grad_norm'):
            return
        if not _has_updated(runner):  # the norm is of an earlier iteration
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._check('The weights', non_finite(model.named_parameters()), runner.iter + 1)
        self.skipped_steps += 1
        runner.logger.warning(
            f'Iteration {runner.iter + 1}: the loss scaler skipped the step because the gradient '
            f'was not finite ({self.skipped_steps} so far)'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the weights to be saved."""
        self._check('The weights', non_finite(checkpoint['state_dict']), runner.iter)

    @staticmethod
    def _check(what: str, names: list[str], iteration: int) -> None:
        if names:
            raise ESCNetError(
                f'{what} {first_few(names)} are not finite (NaN or Inf) after iteration '
                f'{iteration}: they were not saved; continue from the last checkpoint with '
                '--resume and a smaller learning rate, or bfloat16 instead of float16, and check '
                'the images if that does not help.'
            )


class InterruptHook(Hook):
    """Save a checkpoint and stop after the next update, at Ctrl-C or SIGTERM (ours).

    It handles signals while used as a context manager, entered before the data loaders start their
    workers, so that those keep loading until the end. A second Ctrl-C stops immediately.

    In distributed training all processes stop after the iteration in which the first one was
    interrupted. They do not handle SIGTERM, with which the launcher ends a job after a crash.
    """

    priority = 'LOWEST'  # after the checkpoint of the same iteration

    def __init__(self) -> None:
        self._requested = False
        self._previous: dict[int, object] = {}
        self._common_val_iters = 0
        self._work_dir: str | None = None

    def __enter__(self) -> InterruptHook:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            signals = [signal.SIGINT] if dist.is_distributed() else [signal.SIGINT, signal.SIGTERM]
            for number in signals:
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def before_run(self, runner: Runner) -> None:
        """Keep the work dir, for the message of a second Ctrl-C."""
        self._work_dir = runner.work_dir

    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        # between two updates, gradients that are accumulated would be lost
        if _has_updated(runner) and self._requested_anywhere():
            self._stop(runner, runner.iter + 1)

    def before_val(self, runner: Runner) -> None:
        """Find the number of batches common to all processes: some may have one more."""
        batches = torch.tensor(len(runner.val_dataloader), device=dist.get_comm_device())
        dist.all_reduce(batches, op='min')
        self._common_val_iters = int(batches)

    def after_val_iter(self, runner: Runner, batch_idx: int, *_, **__) -> None:
        """Stop here if requested: the validation is lost, but no training."""
        if batch_idx < self._common_val_iters and self._requested_anywhere():
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # validates the averaged weights in place of its own
                    hook.after_val_epoch(runner)
            self._stop(runner, runner.iter)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._requested and not dist.is_distributed():  # a launcher sends it again
            raise KeyboardInterrupt(self._how_to_resume())
        self._requested = True

    def _stop(self, runner: Runner, iterations: int) -> None:
        hooks = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        if not hooks or hooks[0].by_epoch:  # the middle of an epoch cannot be resumed
            raise KeyboardInterrupt(self._how_to_resume())
        say(runner.logger, f'Interrupted: saving the checkpoint of iteration {iterations}')
        hooks[0].save(runner, iterations)
        dist.barrier()
        raise KeyboardInterrupt(
            f'iteration {iterations} is saved in {runner.work_dir}: add --resume to continue'
        )

    def _how_to_resume(self) -> str:
        saved = [] if self._work_dir is None else checkpoints(Path(self._work_dir))
        if not saved:
            return 'no checkpoint was saved yet, so training has to start over'
        latest = max(saved, key=lambda path: path.stat().st_mtime_ns)
        return (
            f'{latest.name} is the latest checkpoint in {self._work_dir}: add --resume to continue'
        )

    def _requested_anywhere(self) -> bool:
        if not dist.is_distributed():
            return self._requested
        requested = torch.tensor([int(self._requested)], device=dist.get_comm_device())
        dist.all_reduce(requested, op='max')
        return bool(requested.item())


def _has_updated(runner: Runner) -> bool:
    """Whether this iteration ended with an update of the weights; DeepSpeed does not say."""
    return getattr(runner.optim_wrapper, 'should_update', lambda: True)()


@HOOKS.register_module()
class MainProcessLoggerHook(LoggerHook):
    """MMEngine's ``LoggerHook``, with test metrics written by the main process only (ours).

    In MMEngine 0.10 every process of a distributed test writes ``TIMESTAMP/TIMESTAMP.json``, which
    occasionally results in invalid JSON.
    """

    @dist.master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log the metrics of a test and write them to a file."""
        super().after_test_epoch(runner, metrics)
