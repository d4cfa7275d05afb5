"""Which checkpoint a training goes on from."""

from __future__ import annotations

import logging
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log

from ..errors import ESCNetError
from ..preflight import check_checkpoint


def latest_whole_checkpoint(work_dir: str | Path) -> str | None:
    """The latest checkpoint of a training that can be read.

    That is the one that MMEngine's ``last_checkpoint`` names; if that note or its checkpoint is
    missing or damaged, the latest written of the others. Of several processes the first one
    chooses for all, lest one that looks later sees other files.

    Args:
        work_dir: Work dir of the training.

    Returns:
        Its path; None if nothing was saved yet.

    Raises:
        ESCNetError: If there are checkpoints, and all are damaged.
    """
    found = [_latest_whole(Path(work_dir)) if is_main_process() else None]
    broadcast_object_list(found)
    return found[0]


def _latest_whole(work_dir: Path) -> str | None:
    candidates, note = [], work_dir / 'last_checkpoint'
    if note.is_file():
        named = note.read_text(errors='replace').strip()
        if named.startswith(('http://', 'https://', 's3://', 'petrel://')):
            return named
        if named:
            candidates.append(Path(named))
    folders = {work_dir, *(candidate.parent for candidate in candidates)}
    others = {path for folder in folders for path in _checkpoints(folder)} - set(candidates)
    candidates += sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    damaged = []
    for candidate in candidates:
        try:
            check_checkpoint(str(candidate))
        except ESCNetError as error:
            damaged.append(str(error))
            print_log(f'Not resumed from: {error}', logger='current', level=logging.WARNING)
        else:
            return str(candidate)
    if damaged:
        raise ESCNetError(
            f'None of the checkpoints in {work_dir} can be read ({damaged[0]}): give a whole one '
            'with --cfg-options load_from=..., or begin again without --resume.'
        )
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return [*folder.glob('iter_*.pth'), *folder.glob('epoch_*.pth')]
