"""Files that are there whole or not at all, as a file backend of MMEngine."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from ..errors import ESCNetError

_CHUNK = 1 << 22
_PART = '.{}.part'


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """MMEngine's local backend, with writing that a crash or a full disk cannot spoil (ours).

    ``backend_args=dict(backend='atomic')`` chooses it.
    """

    def __init__(self) -> None:
        self._outdated: list[str] | None = None

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write a file whole or not at all.

        The bytes go to the disk under another name, are read back and compared, and only then take
        the place of what was there before.

        Args:
            obj: The content.
            filepath: Where it goes.

        Raises:
            ESCNetError: If it could not be written; what was there before is untouched.
        """
        path = Path(filepath)
        part = path.with_name(_PART.format(path.name))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            if _crc32(part) != zlib.crc32(obj):
                raise OSError('what was read back is not what was written')
            os.replace(part, path)
            _sync_folder(path.parent)
        except OSError as error:
            _forget(part)
            raise ESCNetError(
                f'{path} could not be written ({error.strerror or error}): make room or mend the '
                'disk, and run the same command with --resume; what was written before is whole.'
            ) from error
        except BaseException:
            _forget(part)
            raise

    def remove(self, filepath: str | os.PathLike) -> None:
        """Remove a file; within :meth:`removing_afterwards` at its end."""
        if self._outdated is None:
            super().remove(filepath)
        else:
            self._outdated.append(filepath)

    @contextmanager
    def removing_afterwards(self) -> Iterator[None]:
        """What is removed in this context goes at its end, and not at all if it fails.

        MMEngine removes an outdated checkpoint before it writes the one that replaces it.
        """
        if self._outdated is not None:  # within another one, whose end counts
            yield
            return
        self._outdated = []
        try:
            yield
            outdated = self._outdated
        finally:
            self._outdated = None
        for path in outdated:
            if self.isfile(path):
                self.remove(path)


def remove_parts(folder: str | os.PathLike) -> None:
    """Remove what a process that was killed while it wrote has left behind in a folder."""
    for part in Path(folder).glob(_PART.format('*.pth')):
        _forget(part)


def _forget(part: Path) -> None:
    with suppress(OSError):
        part.unlink()


def _crc32(path: Path) -> int:
    value = 0
    with open(path, 'rb') as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _sync_folder(folder: Path) -> None:
    if os.name != 'posix':  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
