"""Apply a function to many files in several processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import NamedTuple, TypeVar

import cv2

from ..errors import ESCNetError
from ..progress import progress

Item = TypeVar('Item')
Result = TypeVar('Result')

_CHUNK = 16  # items sent to a worker at a time


class Outcome(NamedTuple):
    """An item with the result of the function, or the message of the ESCNetError it raised."""

    item: object
    result: object
    error: str | None  # None if it succeeded


def default_workers() -> int:
    """Number of processor cores available to this process."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    description: str,
) -> Iterator[Outcome]:
    """Apply a function to every item in several processes, under a progress bar.

    An ESCNetError does not stop the other items; any other exception (a full disk, a bug) does.

    Args:
        function: A picklable function of one item.
        items: Its arguments.
        workers: Number of processes; 0 or 1 works in this one.
        description: Label of the progress bar.

    Yields:
        One outcome per item, in order.

    Raises:
        ESCNetError: If a worker process dies.
    """
    work = partial(_attempt, function)
    bar = partial(progress, total=len(items), desc=description, unit='file')
    workers = min(workers, -(-len(items) // _CHUNK))
    if workers <= 1:
        yield from bar(map(work, items))
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_worker)
    try:
        # only this process handles Ctrl-C, even while the workers start
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            results = pool.map(work, items, chunksize=_CHUNK)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        yield from bar(results)
    except BrokenProcessPool as error:
        raise ESCNetError(
            f'One of {workers} worker processes died, out of memory or on a damaged file: use '
            'fewer --workers, or check the files.'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    cv2.setNumThreads(0)  # its thread pool does not survive a fork, and all cores are busy


def _attempt(function: Callable, item: object) -> Outcome:
    try:
        return Outcome(item, function(item), None)
    except ESCNetError as error:
        return Outcome(item, None, str(error))
