"""Ctrl-C in the middle of a training loses nothing."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .checkpoint_hook import AtomicCheckpointHook

_FROM_LATEST = 'add --resume to go on from the latest checkpoint'


class InterruptHook(Hook):
    """Save a checkpoint and end at the next iteration after Ctrl-C or SIGTERM (ours).

    As a context manager it listens to the signals, which has to begin before the workers of the
    data loaders do, so that they go on loading until the end. A second Ctrl-C ends at once.

    In distributed training the processes end together, after the iteration in which the first of
    them was interrupted; they leave SIGTERM to the launcher, which ends a job with it whose other
    processes are dead.
    """

    priority = 'LOWEST'  # after the checkpoint of the same iteration

    def __init__(self) -> None:
        self._requested = False
        self._previous: dict[int, object] = {}
        self._common_val_iters = 0

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

    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        """End here if it was asked for."""
        self._end_if_requested(runner, runner.iter + 1)

    def before_val(self, runner: Runner) -> None:
        """Find out how many batches every process has: a sampler may give some one more."""
        batches = torch.tensor(len(runner.val_dataloader), device=dist.get_comm_device())
        dist.all_reduce(batches, op='min')
        self._common_val_iters = int(batches)

    def after_val_iter(self, runner: Runner, batch_idx: int, *_, **__) -> None:
        """End here if it was asked for: the validation is lost, no training is."""
        if batch_idx < self._common_val_iters:
            self._end_if_requested(runner, runner.iter)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._requested and not dist.is_distributed():  # a launcher passes it on once more
            raise KeyboardInterrupt(_FROM_LATEST)
        self._requested = True

    def _end_if_requested(self, runner: Runner, iterations: int) -> None:
        if not self._requested_anywhere():
            return
        hooks = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        if not hooks or hooks[0].by_epoch:  # the middle of an epoch cannot be resumed
            raise KeyboardInterrupt(_FROM_LATEST)
        runner.logger.info(f'Interrupted: saving the checkpoint of iteration {iterations}')
        hooks[0].save(runner, iterations)
        dist.barrier()
        raise KeyboardInterrupt(
            f'iteration {iterations} is saved in {runner.work_dir}: add --resume to go on'
        )

    def _requested_anywhere(self) -> bool:
        if not dist.is_distributed():
            return self._requested
        requested = torch.tensor([int(self._requested)], device=dist.get_comm_device())
        dist.all_reduce(requested, op='max')
        return bool(requested.item())
