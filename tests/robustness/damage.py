"""Damage as disks, cables and interrupted copies do it, the same at every run."""

import contextlib
import faulthandler
from collections.abc import Callable, Iterator

import numpy as np

from mmseg_escnet import ESCNetError


def damaged(content: bytes, count: int, *, seed: int = 0) -> Iterator[bytes]:
    """Copies of a file, each damaged in one of six ways, half of them in its first 300 bytes."""
    rng = np.random.default_rng([seed, len(content)])
    for number in range(count):
        copy = bytearray(content)
        end = min(len(copy), 300) if number % 2 else len(copy)
        place, length = int(rng.integers(end)), int(rng.integers(1, 40))
        match rng.integers(6):
            case 0 | 1:
                copy[place] ^= 1 << int(rng.integers(8))
            case 2:
                for each in rng.integers(end, size=3):
                    copy[each] = int(rng.integers(256))
            case 3:
                del copy[place:]
            case 4:
                copy[place : place + length] = bytes(len(copy[place : place + length]))
            case 5:
                copy[place:place] = rng.bytes(length)
        if copy != content:
            yield bytes(copy)


@contextlib.contextmanager
def watchdog(seconds: int) -> Iterator[None]:
    """End the process, with a traceback of where it hangs, if this takes longer."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def outcome(read: Callable[[], object]) -> tuple[object, str | None]:
    """What a reader returns, or the one sentence with which it refuses."""
    try:
        return read(), None
    except ESCNetError as error:
        message = str(error)
        assert '\n' not in message
        assert len(message) < 900
        return None, message
