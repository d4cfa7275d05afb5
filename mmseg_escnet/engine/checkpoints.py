"""Checkpoints that survive a crash, and the one that a training starts or resumes from."""

import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..errors import ESCNetError, did_you_mean
from ..files import write_file
from ..preflight import check_checkpoint, find_weights
from .processes import in_turns


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """MMEngine's local backend with atomic writes (ours): ``dict(backend='atomic')``."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write a file (see :func:`~mmseg_escnet.files.write_file`)."""
        write_file(filepath, obj, sync=True)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook`` with files that are complete at any time (ours).

    A checkpoint gets its name when it is on disk, and only then is an outdated one removed:
    whenever the process dies, :func:`latest_whole_checkpoint` finds the last complete one.

    Args:
        **kwargs: Of ``CheckpointHook``.

    Raises:
        ESCNetError: For an unknown argument, which MMEngine would notice at the first checkpoint.
    """

    def __init__(self, *, backend_args: dict | None = None, **kwargs) -> None:
        own = inspect.signature(CheckpointHook.__init__).parameters.keys()
        of_saving = inspect.signature(Runner.save_checkpoint).parameters.keys()
        known = (own | of_saving) - {'self', 'kwargs'}
        for name in kwargs.keys() - known:
            hint = did_you_mean(name, known)
            raise ESCNetError(f'{name} is no setting of {type(self).__name__}: {hint}')
        super().__init__(backend_args=backend_args or dict(backend='atomic'), **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Remove the partial files of a killed run."""
        super().before_train(runner)
        if is_main_process():
            for part in Path(self.out_dir).glob('.*.part'):
                part.unlink(missing_ok=True)

    def save(self, runner: Runner, iterations: int) -> None:
        """Write a checkpoint now, after the given number of iterations."""
        self._save_checkpoint_with_step(
            runner, iterations, meta=dict(epoch=runner.epoch, iter=iterations)
        )

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self._remove_afterwards(super()._save_checkpoint_with_step, runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        self._remove_afterwards(super()._save_best_checkpoint, runner, metrics)

    def _remove_afterwards(self, save: Callable[..., None], *arguments) -> None:
        # MMEngine removes an outdated checkpoint before it writes the one that replaces it
        outdated, remove = [], self.file_backend.remove
        self.file_backend.remove = outdated.append
        try:
            save(*arguments)
        finally:
            self.file_backend.remove = remove
        for path in outdated:
            remove(path)


def choose_checkpoint(cfg: Config) -> str | None:
    """Choose the checkpoint that a training starts or resumes from, before a runner is built.

    ``load_from`` is where a training starts. One that resumes continues from the latest whole
    checkpoint of its own work dir, and starts if there is none yet; MMEngine would resume from
    ``load_from``, whose weights, optimiser and iteration are another training's.

    Args:
        cfg: A complete config, whose ``load_from`` and ``resume`` are set in place.

    Returns:
        Its path; None for a training that starts from pretrained or random weights.

    Raises:
        ESCNetError: If the checkpoint cannot be read, or all those of the work dir are damaged.
    """
    start = cfg.get('load_from')
    latest = latest_whole_checkpoint(cfg.work_dir) if cfg.get('resume') else None
    if latest is not None:
        if start is not None:
            print_log(f'Resuming from {latest}, not from load_from={start}', logger='current')
        cfg.load_from = latest
        return latest
    if cfg.get('resume'):
        where = 'at iteration 0' if start is None else f'from load_from={start}'
        print_log(f'No checkpoint to resume in {cfg.work_dir}: starting {where}', logger='current')
    cfg.resume = False
    if start is not None:
        check_checkpoint(start)
    return start


def check_test_weights(cfg: Config, checkpoint: str | None, *, allow_download: bool = True) -> None:
    """Read the checkpoint of a test once; or, without one, find the weights of CLIP alone.

    Raises:
        ESCNetError: As :func:`.check_checkpoint` or :func:`.find_weights`.
    """
    if checkpoint is None:
        model = cfg.model.get('module', cfg.model)  # inside test-time augmentation
        in_turns(lambda: find_weights(model, allow_download=allow_download))
    else:
        check_checkpoint(checkpoint)


def latest_whole_checkpoint(work_dir: str | Path) -> str | None:
    """The latest readable checkpoint in a work dir.

    That is the one in MMEngine's ``last_checkpoint`` file; if that file or its checkpoint is
    missing or damaged, the most recent other one. A folder elsewhere that the file names counts
    only if the work dir has no checkpoint (``out_dir``), as copied work dirs still name the
    original. The main process chooses for all.

    Returns:
        Its path; None if nothing was saved yet.

    Raises:
        ESCNetError: If there are checkpoints, but all are damaged.
    """
    found = [_latest_whole(Path(work_dir)) if is_main_process() else None]
    broadcast_object_list(found)
    return found[0]


def _latest_whole(work_dir: Path) -> str | None:
    candidates, note, folder = [], work_dir / 'last_checkpoint', work_dir
    if note.is_file():
        path = note.read_text(errors='replace').strip()
        if path.startswith(('s3://', 'petrel://')):
            return path
        if path:
            folder = work_dir if checkpoints(work_dir) else Path(path).parent
            candidates.append(folder / Path(path).name)
    others = set(checkpoints(folder)) - set(candidates)
    candidates += sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    damaged = []
    for candidate in candidates:
        try:
            meta = check_checkpoint(str(candidate))
            if meta is not None and not {'epoch', 'iter'} <= meta.keys():
                raise ESCNetError(
                    f'{candidate} has weights, but not the step of a training they are from, so '
                    'that only a new training can start from them: give it as load_from.'
                )
        except ESCNetError as error:
            damaged.append(str(error))
            print_log(f'Skipped checkpoint: {error}', logger='current', level=logging.WARNING)
        else:
            return str(candidate)
    if damaged:
        raise ESCNetError(
            f'None of the checkpoints in {work_dir} can be read ({damaged[0]}): put a whole '
            'iter_*.pth of this training there, or start over without --resume.'
        )
    return None


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints in a folder, of any order."""
    return [*folder.glob('iter_*.pth'), *folder.glob('epoch_*.pth')]
