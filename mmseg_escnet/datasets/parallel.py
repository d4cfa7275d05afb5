"""A function applied to many files in several processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import NamedTuple, TypeVar

import cv2
from tqdm import tqdm

from ..errors import ESCNetError

Item = TypeVar('Item')
Result = TypeVar('Result')

_CHUNK = 16  # items a worker gets at a time


class Outcome(NamedTuple):
    """What became of one item.

    Attributes:
        item: The item as given.
        result: What the function returned; None if it failed.
        error: The message of the ESCNetError it raised; None if it succeeded.
    """

    item: object
    result: object
    error: str | None


def default_workers() -> int:
    """Number of processors this process may use."""
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

    An ESCNetError of one item is part of its outcome and the others go on; any other exception (a
    full disk, a mistake in the program) stops everything.

    Args:
        function: What to apply; importable by name, for processes of their own.
        items: What to apply it to.
        workers: Number of processes; 0 or 1 works in this one.
        description: Label of the progress bar.

    Yields:
        One outcome for each item, in their order.

    Raises:
        ESCNetError: If a process dies.
    """
    work = partial(_attempt, function)
    bar = partial(tqdm, total=len(items), desc=description, unit='file', disable=None)
    workers = min(workers, -(-len(items) // _CHUNK))
    if workers <= 1:
        yield from bar(map(work, items))
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_worker)
    try:
        # Ctrl-C is for this process alone, also while the others start
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            results = pool.map(work, items, chunksize=_CHUNK)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        yield from bar(results)
    except BrokenProcessPool as error:
        raise ESCNetError(
            f'One of {workers} processes died, of too little memory or on a damaged file: give '
            'fewer as --workers; --workers 1 dies on the same file.'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process answers Ctrl-C
    cv2.setNumThreads(0)  # its thread pool does not survive a fork, and the cores are taken


def _attempt(function: Callable, item: object) -> Outcome:
    try:
        return Outcome(item, function(item), None)
    except ESCNetError as error:
        return Outcome(item, None, str(error))
