"""Checkpoints that survive a crash."""

from __future__ import annotations

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...errors import ESCNetError
from ..atomic_backend import remove_parts


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, whose files are whole at any moment (ours).

    A checkpoint takes its name when it is on the disk and read back, and an outdated one goes only
    then: whenever the process dies, the last whole checkpoint is there, and
    :func:`~mmseg_escnet.engine.checkpoints.latest_whole_checkpoint` finds it.

    Args:
        **kwargs: Of ``CheckpointHook``; other backends than the local file system keep their own
            ways.
    """

    def __init__(self, *, backend_args: dict | None = None, **kwargs) -> None:
        super().__init__(backend_args=backend_args or dict(backend='atomic'), **kwargs)
        self._atomic = self.backend_args.get('backend') == 'atomic'

    def before_train(self, runner: Runner) -> None:
        """Clear away what a killed run has left half written."""
        super().before_train(runner)
        if self._atomic and is_main_process():
            remove_parts(self.out_dir)

    def save(self, runner: Runner, iterations: int) -> None:
        """Write a checkpoint now.

        Args:
            runner: The runner of the training.
            iterations: How many iterations it has done.
        """
        self._save_checkpoint_with_step(
            runner, iterations, meta=dict(epoch=runner.epoch, iter=iterations)
        )

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self._save_whole(super()._save_checkpoint_with_step, runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        self._save_whole(super()._save_best_checkpoint, runner, metrics)

    def _save_whole(self, save, runner: Runner, *arguments) -> None:
        if not self._atomic:
            save(runner, *arguments)
            return
        try:
            with self.file_backend.removing_afterwards():
                save(runner, *arguments)
        except OSError as error:  # of MMEngine's own small files
            raise ESCNetError(
                f'{error.filename or runner.work_dir} could not be written '
                f'({error.strerror or error}): make room or mend the disk, and run the same '
                'command with --resume; the checkpoints are whole.'
            ) from error
