"""What every data set converter needs: counts checked first, parallel, resumable, whole files."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
from tqdm import tqdm

from ..errors import ESCNetError

Item = TypeVar('Item')
Result = TypeVar('Result')

_CHUNK = 16  # items a worker gets at a time
EXIT_FAILED_FILES = 1


class Outcome(NamedTuple):
    """What became of one item.

    Attributes:
        item: The item as given.
        result: What the function returned; None if it failed.
        error: The message of the ESCNetError it raised; None if it went well.
    """

    item: object
    result: object
    error: str | None


def place_image(source: Path, target: Path, how: str) -> bool:
    """Put an image where the data set looks for it.

    Args:
        source: The image.
        target: Where it should be; left alone if it is the same file or already the same size.
        how: ``'symlink'``, ``'copy'`` or ``'none'``.

    Returns:
        Whether something was written.

    Raises:
        ESCNetError: If the file system refuses symbolic links.
    """
    if how == 'none':
        return False
    if target.exists() and (
        target.samefile(source) or target.stat().st_size == source.stat().st_size
    ):
        return False
    target.unlink(missing_ok=True)
    if how == 'copy':
        part = target.with_name(f'.{target.name}.{os.getpid()}.part')
        try:
            shutil.copyfile(source, part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        return True
    try:
        target.symlink_to(source.resolve())
    except OSError as error:
        raise ESCNetError(
            f'Symbolic link {target} cannot be made ({error.strerror or error}): use --link copy.'
        ) from error
    return True


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    description: str,
) -> Iterator[Outcome]:
    """Apply a function to every item in several processes, under a progress bar.

    An ESCNetError of one item is part of its outcome and the rest goes on; any other exception
    (a full disk, a mistake in the program) stops everything.

    Args:
        function: What to apply; importable by name, for processes of their own.
        items: What to apply it to.
        workers: Number of processes; 0 or 1 works in this one.
        description: Stands before the bar.

    Yields:
        One outcome for each item, in the order in which they are done.
    """
    with tqdm(total=len(items), desc=description, unit='file', disable=None) as bar:
        if workers <= 1:
            outcomes = (_attempt(function, item) for item in items)
        else:
            outcomes = _map_in_processes(function, items, workers)
        for outcome in outcomes:
            bar.update()
            yield outcome


def _map_in_processes(function: Callable, items: Sequence, workers: int) -> Iterator[Outcome]:
    starts = iter(range(0, len(items), _CHUNK))
    workers = min(workers, -(-len(items) // _CHUNK))
    if workers == 0:
        return
    pool = concurrent.futures.ProcessPoolExecutor(workers, initializer=_start_worker)
    try:
        # A bounded number of chunks waits in line: 100 000 futures at once would cost memory.
        pending = {
            pool.submit(_attempt_all, function, items[start : start + _CHUNK])
            for start in islice(starts, 4 * workers)
        }
        while pending:
            done, pending = concurrent.futures.wait(
                pending, return_when=concurrent.futures.FIRST_COMPLETED
            )
            pending |= {
                pool.submit(_attempt_all, function, items[start : start + _CHUNK])
                for start in islice(starts, len(done))
            }
            for future in done:
                yield from future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process answers Ctrl-C
    cv2.setNumThreads(0)  # its thread pool does not survive a fork, and the cores are taken


def _attempt(function: Callable, item: object) -> Outcome:
    try:
        return Outcome(item, function(item), None)
    except ESCNetError as error:
        return Outcome(item, None, str(error))


def _attempt_all(function: Callable, items: Sequence) -> list[Outcome]:
    return [_attempt(function, item) for item in items]


def check_count(*, what: str, folder: Path, found: int, expected: int, remedy: str) -> None:
    """Compare a number of files with the published one.

    Args:
        what: What is counted.
        folder: Where it was looked for.
        found: The number there.
        expected: The published number.
        remedy: What to do if they differ.

    Raises:
        ESCNetError: If the numbers differ.
    """
    if found != expected:
        raise ESCNetError(
            f'{folder} holds {found} of {expected} {what}: {remedy}, or pass --allow-partial to '
            'convert what is there.'
        )


def default_workers() -> int:
    """Number of processors this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
