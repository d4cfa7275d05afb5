"""Progress bars that also work without a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TextIO

from tqdm import tqdm

_LINE = '{desc}: {n_fmt} of {total_fmt}, {elapsed} so far, {remaining} left{postfix}'
_UP = '\x1b[A'  # to the bar above
_SECONDS = 60  # between two lines


def progress(iterable: Iterable | None = None, **options) -> tqdm:
    """A bar of tqdm; without a terminal, plain lines: the first, one a minute, and the last.

    Args:
        iterable: As for tqdm.
        options: Of tqdm: ``desc``, ``total``, ``initial``, ``unit`` (in the singular), ``disable``.
    """
    if _is_terminal(sys.stderr):
        return tqdm(iterable, dynamic_ncols=True, **options)
    lines = dict(file=_Lines(sys.stderr), mininterval=_SECONDS, miniters=1, bar_format=_LINE)
    return tqdm(iterable, **lines, **options)


def _is_terminal(stream: TextIO) -> bool:
    """Whether it is a terminal with a size: without one, tqdm would draw nothing."""
    try:
        return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:
        return False


class _Lines:
    """A stream in which a line follows the other, where tqdm would overwrite the last one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ''

    def write(self, text: str) -> None:
        line = text.replace(_UP, '').strip()
        if line and line != self._last:
            self._stream.write(f'{line}\n')
            self._last = line

    def flush(self) -> None:
        self._stream.flush()
