"""Sets of label files: from raw ids to theirs, what a file holds, and what it was made of."""

from __future__ import annotations

import hashlib
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import ESCNetError, first_few
from ..files import encode_label_map, png_header, read_label_map, read_note, write_file

NO_SUCH_ID = -1

_MADE_OF = 'made of '
_VERSION = b'1'  # changes with what is made of the same content


class FileOutcome(Enum):
    """What became of a label file."""

    CONVERTED = 'converted'  # there was none
    UNCHANGED = 'unchanged'
    UPDATED = 'updated'  # the file was damaged, or made of other content


class LabelSet(NamedTuple):
    """A set of label files, and how raw ids map to its ids.

    Attributes:
        name: Name of the data set.
        folder: Folder of its label files, below OUT.
        table: Raw id -> id in the file, (number of raw ids,); ``NO_SUCH_ID`` for raw ids that do
            not exist in the publication.
        classes: Class names, in the order of their ids.
        ignored: Id of pixels without a class.
        first_id: Id of the first class.
    """

    name: str
    folder: str
    table: np.ndarray
    classes: tuple[str, ...]
    ignored: int
    first_id: int = 0

    @property
    def dtype(self) -> type:
        """Type of the ids in the files: 16 bits if an id needs them."""
        return np.uint8 if max(self.table.max(), self.ignored) <= 255 else np.uint16


def to_file_ids(raw: np.ndarray, label_set: LabelSet, file: Path) -> np.ndarray:
    """Map raw ids to those of a label file, (height, width).

    Raises:
        ESCNetError: If a raw id does not exist in the publication.
    """
    table = label_set.table
    present = np.flatnonzero(np.bincount(raw.ravel())).tolist()
    unknown = [value for value in present if value >= len(table) or table[value] == NO_SUCH_ID]
    if unknown:
        raise ESCNetError(
            f'Label map {file} holds id {first_few(unknown)}, which no class of {label_set.name} '
            'has: it is from another data set, or already converted.'
        )
    return table.astype(label_set.dtype)[raw]


def count_ids(ids: np.ndarray, label_set: LabelSet) -> np.ndarray | None:
    """Pixels of each class, then of ignored ones, (N + 1,); None if there is any other id."""
    start, end = label_set.first_id, label_set.first_id + len(label_set.classes)
    counts = np.bincount(ids.ravel(), minlength=max(end, label_set.ignored + 1))
    result = np.append(counts[start:end], counts[label_set.ignored])
    return result if result.sum() == ids.size else None


def count_file(path: Path, size: tuple[int, int], label_set: LabelSet) -> np.ndarray | None:
    """Like :func:`count_ids` for a label file; None also if missing, damaged or of another size."""
    if png_header(path) != (*size, 8 * np.dtype(label_set.dtype).itemsize):
        return None
    try:
        return count_ids(read_label_map(path), label_set)
    except ESCNetError:
        return None


def describe(counts: np.ndarray, label_set: LabelSet) -> str:
    """Share of ignored pixels and classes that never occur, in one line.

    Args:
        counts: Pixels of each class, then of ignored ones, (N + 1,).
        label_set: The label set they belong to.
    """
    counted = zip(label_set.classes, counts[:-1].tolist(), strict=True)
    absent = [repr(name) for name, count in counted if not count]
    return (
        f'{counts[-1] / counts.sum():.1%} of the pixels are ignored, '
        f'{len(absent)} of {len(label_set.classes)} classes never occur'
        + (f': {first_few(absent)}' if absent else '')
    )


def made_of(content: bytes, size: tuple[int, int], label_set: LabelSet) -> str:
    """The note in a label file: a digest of all that determines it.

    Dates and sizes of files do not tell whether their content has changed, so it is read.

    Args:
        content: The raw labels.
        size: Of the label map, (height, width).
        label_set: Maps their ids.
    """
    table = label_set.table.astype(np.int64)
    settings = repr((size, label_set.dtype.__name__, label_set.ignored, len(table)))
    digest = hashlib.sha256(_VERSION + settings.encode() + table.tobytes())
    digest.update(content)
    return _MADE_OF + digest.hexdigest()


def is_made_of(path: Path, note: str) -> bool:
    """Whether a label file has this note."""
    return read_note(path) == note


def remove_outdated(path: Path, note: str) -> None:
    """Remove a label file with a note other than this one."""
    found = read_note(path)
    if found is not None and found.startswith(_MADE_OF) and found != note:
        path.unlink(missing_ok=True)


def write_labels(path: Path, ids: np.ndarray, note: str) -> FileOutcome:
    """Write a label file with its note; one without, made elsewhere, is kept if it is right."""
    if not path.is_file():
        write_file(path, encode_label_map(ids, note))
        return FileOutcome.CONVERTED
    try:
        before = read_label_map(path)
    except ESCNetError:  # damaged
        before = None
    same = before is not None and before.dtype == ids.dtype and np.array_equal(before, ids)
    if not same or read_note(path) is not None:
        write_file(path, encode_label_map(ids, note))
    return FileOutcome.UNCHANGED if same else FileOutcome.UPDATED
