"""Image files: finding them, naming them in messages, and the folders of results.

Imports none of the libraries that read images.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import ESCNetError

# in the order in which they are written: an image with a label map is done
RESULT_FOLDERS = (SCORES, OVERLAYS, COCO, POLYGONS, LABELS) = (
    *('scores', 'overlays', 'coco', 'polygons', 'labels'),
)
IMAGE_SUFFIXES = (
    *('.avif', '.bmp', '.gif', '.jfif', '.jp2', '.jpeg', '.jpg', '.pgm', '.png', '.pnm', '.ppm'),
    *('.tif', '.tiff', '.webp'),
)


class FoundImage(NamedTuple):
    """An image file.

    Attributes:
        path: The file.
        name: Its path below the common folder of the search, with '/' and without '..': unique
            among the images found.
    """

    path: Path
    name: str


def printable(path: str | os.PathLike) -> str:
    """A file name for messages: without control characters or broken encoding."""
    text = os.fspath(path).encode('utf-8', 'replace').decode()
    return ''.join(c if c.isprintable() else '?' for c in text) or "''"


def numbered_folder(folder: Path, number: int) -> Path:
    """``results2`` for ``results`` and 2."""
    if folder.name in ('', '..'):
        folder = Path(os.path.abspath(folder))
    return folder.with_name(f'{folder.name}{number}')


def numbered_folders(folder: Path) -> list[Path]:
    """The existing folders ``results2``, ``results3``, ... beside ``results``, in this order."""
    name = Path(os.path.abspath(folder)).name
    ends = (path.name[len(name) :] for path in _beside(folder) if path.name.startswith(name))
    numbers = sorted(int(end) for end in ends if re.fullmatch('[2-9]|[1-9][0-9]+', end))
    return [path for n in numbers if (path := numbered_folder(folder, n)).is_dir()]


def _beside(folder: Path) -> Iterator[Path]:
    parent = Path(os.path.abspath(folder)).parent
    return parent.iterdir() if parent.is_dir() else iter(())


def check_writable(folder: str | os.PathLike) -> None:
    """Check that files can be written to a folder, which need not exist.

    Raises:
        ESCNetError: If it, or the first that exists above it, is a file or not writable.
    """
    parents = (Path(folder), *Path(folder).absolute().parents)
    nearest = next(path for path in parents if os.path.lexists(path))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        why = 'writable' if nearest.is_dir() else 'a folder'
        raise ESCNetError(
            f'Files cannot be written to {folder}, because {nearest} is not {why}: choose another '
            'folder, or change its permissions.'
        )


def is_glob(path: str | os.PathLike) -> bool:
    """Whether a path is a pattern such as 'photos/*.jpg'; what exists by its name is not."""
    return glob.has_magic(_split_glob(path)[1])


def _split_glob(path: str | os.PathLike) -> tuple[str, str]:
    """The folders (or file) that exist as they are written, such as 'run[1]', and the rest."""
    parts = Path(path).parts
    exist = 0
    while exist < len(parts) and os.path.lexists(os.path.join(*parts[: exist + 1])):
        exist += 1
    return os.path.join('', *parts[:exist]), os.path.join('', *parts[exist:])


def find_images(
    inputs: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    leave_out: Sequence[str | os.PathLike] = (),
    report: Callable[[str], None] | None = None,
) -> list[FoundImage]:
    """Find image files.

    Files are accepted under any name; folders (searched recursively, without following links to
    folders) and globs yield the files with an image suffix that do not begin with a dot.

    Args:
        inputs: Files, folders and globs ('photos/**/*.jpg').
        leave_out: Folders that are not searched: those of results.
        report: Called with a message for every folder that cannot be read; by default that is an
            error.

    Returns:
        The images sorted by path, each once.

    Raises:
        ESCNetError: If an input does not exist or no image is found.
    """
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    hidden = tuple(os.path.abspath(folder) for folder in leave_out)
    roots, files = [], set()
    for item in map(os.fspath, given):
        if os.path.isdir(item):
            roots.append(os.path.abspath(item))
            files.update(_walk(item, hidden, report))
        elif is_glob(item):
            folder, pattern = _split_glob(item)
            roots.append(os.path.abspath(folder))
            matches = glob.iglob(os.path.join(glob.escape(folder), pattern), recursive=True)
            found = filter(os.path.isfile, filter(is_image, matches))
            below = tuple(folder + os.sep for folder in hidden)
            files.update(path for path in map(os.path.abspath, found) if not path.startswith(below))
        elif os.path.lexists(item):
            files.add(os.path.abspath(item))
        else:
            raise ESCNetError(
                f'Image {printable(item)} does not exist: check the path, and put a glob in quotes.'
            )
    if not files:
        raise ESCNetError(
            f'No image found in {", ".join(map(printable, given))}: give a file, a folder or a '
            f'glob of files that end in {", ".join(IMAGE_SUFFIXES)}.'
        )
    base = Path(os.path.commonpath([*roots, *map(os.path.dirname, files)]))
    paths = map(Path, sorted(files))
    return [FoundImage(path, path.relative_to(base).as_posix()) for path in paths]


def _walk(
    folder: str, hidden: tuple[str, ...], report: Callable[[str], None] | None
) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        message = (
            f'Folder {printable(error.filename)} cannot be read ({error.strerror}): check its '
            'permissions.'
        )
        if report is None:
            raise ESCNetError(message) from error
        report(message)

    for parent, folders, names in os.walk(os.path.abspath(folder), onerror=unreadable):
        visible = (name for name in folders if not name.startswith('.'))
        folders[:] = [name for name in visible if os.path.join(parent, name) not in hidden]
        yield from (os.path.join(parent, name) for name in names if is_image(name))


def is_image(path: str) -> bool:
    """Whether a file is found by its name: it has an image suffix and does not begin with a dot."""
    name = os.path.basename(path)
    return not name.startswith('.') and name.lower().endswith(IMAGE_SUFFIXES)


def are_several(images: object) -> bool:
    """Whether these are several images: a folder, a glob, a list, a tuple or an iterator."""
    if isinstance(images, (str, os.PathLike)):
        return os.path.isdir(images) or is_glob(images)
    return isinstance(images, (list, tuple, Iterator))


def each_image(images: object) -> Iterable[tuple[object, str]]:
    """The images, and what each is called in messages if it has no path."""
    if not are_several(images):
        return [(images, 'The image')]
    if isinstance(images, (str, os.PathLike)):
        images = [found.path for found in find_images(images)]
    return ((image, f'Image number {number}') for number, image in enumerate(images, 1))
