"""What the converters of the evaluation sets share: from raw ids to checked label files.

Where a data set is made of published images and label maps, a converter lists its jobs, and says
how raw ids are read and which label files they become; the rest is here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import ESCNetError
from ..files import decode_label_map, encode_label_map, png_header, write_file
from .conversion import EXIT_FAILED_FILES, default_workers, parallel_map, place_image

NO_SUCH_ID = -1

_ERRORS_SHOWN = 10
_NAMES_SHOWN = 5


class LabelSet(NamedTuple):
    """One kind of label files, and how raw ids become its ids.

    Attributes:
        name: Name of the benchmark.
        folder: Where its label files are, inside OUT.
        table: Raw id -> id in the file, (number of raw ids,); ``NO_SUCH_ID`` for raw ids that the
            publication does not have.
        classes: Names of the classes, in the order of their ids.
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
        """Type of the files: 16 bits where an id needs them."""
        return np.uint8 if max(self.table.max(), self.ignored) <= 255 else np.uint16


class Job(NamedTuple):
    """One image with its label map, and the files they become."""

    raw_label: Path
    raw_image: Path
    image: Path
    labels: tuple[Path, ...]


class Converted(NamedTuple):
    """What became of one job.

    Attributes:
        is_new: For each label set, whether its file was written.
        counts: For each label set, the pixels of each class and then of none, (N + 1,).
    """

    is_new: tuple[bool, ...]
    counts: tuple[np.ndarray, ...]


def add_arguments(
    parser: argparse.ArgumentParser, *, out: str, splits: Sequence[str], default: str
) -> None:
    """Add the arguments that these converters have in common."""
    parser.add_argument('raw', metavar='RAW', type=Path)
    parser.add_argument('--out', type=Path, default=Path(out), help='default: %(default)s')
    parser.add_argument(
        '--splits', nargs='+', choices=splits, default=[default], help=f'default: {default}'
    )
    parser.add_argument('--workers', type=int, default=default_workers(), help='processes')
    parser.add_argument(
        '--link',
        choices=('symlink', 'copy'),
        default='symlink',
        help='how images get into OUT, where it is not RAW (default: %(default)s)',
    )
    parser.add_argument(
        '--allow-partial', action='store_true', help='convert what is there, however little'
    )


def image_size(path: Path) -> tuple[int, int]:
    """Size (height, width) from the header of an image.

    Raises:
        ESCNetError: If it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ESCNetError(
            f'Image {path} cannot be read ({error or type(error).__name__}): it is damaged or '
            'incomplete, so unpack or download it again.'
        ) from error


def place(job: Job, *, link: str) -> None:
    """Put the image of a job in place, but never in the place of another data set's.

    Raises:
        ESCNetError: If another file has its name.
    """
    target, source = job.image, job.raw_image
    if target.exists() and not target.samefile(source):
        if target.stat().st_size != source.stat().st_size:
            raise ESCNetError(
                f'{target} is there and is not {source}: another data set lies in that folder, so '
                'give --out one of its own.'
            )
        return
    place_image(source, target, link)


def convert(
    job: Job,
    *,
    read: Callable[[Job], np.ndarray],
    sets: tuple[LabelSet, ...],
    put_image: Callable[[Job], None],
) -> Converted:
    """Put one image in place and make its label files; files that are there and right are kept.

    Args:
        job: What to convert.
        read: Reads the raw ids of a job, (height, width), at the size of its image in OUT.
        sets: The label sets, in the order of ``job.labels``.
        put_image: Puts the image of a job in place.

    Raises:
        ESCNetError: If a file is damaged, sizes differ, or an id is none of the publication.
    """
    put_image(job)
    size = image_size(job.image)
    counts = [
        count_file(path, size, label_set) for path, label_set in zip(job.labels, sets, strict=True)
    ]
    is_new = tuple(count is None for count in counts)
    if any(is_new):
        raw = read(job)
        if raw.shape != size:
            raise ESCNetError(
                f'Label map {job.raw_label} is {raw.shape[1]}x{raw.shape[0]} pixels but its image '
                f'{job.raw_image} is {size[1]}x{size[0]}: they are from different versions of the '
                'data set.'
            )
        for i, (path, label_set) in enumerate(zip(job.labels, sets, strict=True)):
            if is_new[i]:
                ids = to_file_ids(raw, label_set, job.raw_label)
                write_file(path, encode_label_map(ids))
                counts[i] = count_ids(ids, label_set)
    return Converted(is_new, tuple(counts))


def to_file_ids(raw: np.ndarray, label_set: LabelSet, file: Path) -> np.ndarray:
    """Ids of a label file, (height, width), from raw ids.

    Raises:
        ESCNetError: If the publication has no such raw id.
    """
    table = label_set.table
    present = np.flatnonzero(np.bincount(raw.ravel())).tolist()
    unknown = [value for value in present if value >= len(table) or table[value] == NO_SUCH_ID]
    if unknown:
        raise ESCNetError(
            f'Label map {file} holds id {", ".join(map(str, unknown[:5]))}, which no class of '
            f'{label_set.name} has: it is from another data set, or already converted.'
        )
    return table.astype(label_set.dtype)[raw]


def count_ids(ids: np.ndarray, label_set: LabelSet) -> np.ndarray | None:
    """Pixels of each class and then of none, (N + 1,); None if there is an id of neither."""
    start, end = label_set.first_id, label_set.first_id + len(label_set.classes)
    counts = np.bincount(ids.ravel(), minlength=max(end, label_set.ignored + 1))
    result = np.append(counts[start:end], counts[label_set.ignored])
    return result if result.sum() == ids.size else None


def count_file(path: Path, size: tuple[int, int], label_set: LabelSet) -> np.ndarray | None:
    """Like :func:`count_ids`, of a label file; None also if it is missing, damaged or misfit."""
    if png_header(path) != (*size, 8 * np.dtype(label_set.dtype).itemsize):
        return None
    try:
        ids = decode_label_map(path.read_bytes(), str(path))
    except (OSError, ESCNetError):
        return None
    return count_ids(ids, label_set)


def run(
    jobs: Sequence[Job],
    *,
    out: Path,
    read: Callable[[Job], np.ndarray],
    sets: tuple[LabelSet, ...],
    put_image: Callable[[Job], None],
    workers: int,
    description: str,
) -> int:
    """Run the jobs under a progress bar, and say what the label files hold.

    Returns:
        The exit status: 1 if a file failed, or if the label files of a set hold no class at all.
    """
    for folder in {job.image.parent for job in jobs} | {
        label.parent for job in jobs for label in job.labels
    }:
        folder.mkdir(parents=True, exist_ok=True)
    totals = [np.zeros(len(label_set.classes) + 1, np.int64) for label_set in sets]
    num_new, failed = np.zeros(len(sets), np.int64), []
    work = partial(convert, read=read, sets=sets, put_image=put_image)
    for outcome in parallel_map(work, jobs, workers=workers, description=description):
        if outcome.error is not None:
            failed.append(outcome.error)
            continue
        num_new += outcome.result.is_new
        for total, counts in zip(totals, outcome.result.counts, strict=True):
            total += counts

    for message in failed[:_ERRORS_SHOWN]:
        print(f'error: {message}', file=sys.stderr)
    if len(failed) > _ERRORS_SHOWN:
        print(f'error: {len(failed) - _ERRORS_SHOWN} more files failed', file=sys.stderr)
    num_good = len(jobs) - len(failed)
    status = EXIT_FAILED_FILES if failed else 0
    for label_set, new, total in zip(sets, num_new.tolist(), totals, strict=True):
        print(
            f'{label_set.name}: {new} label maps converted, {num_good - new} already there, '
            f'{len(failed)} failed, in {out / label_set.folder}'
        )
        if num_good:
            print(f'{label_set.name}: {describe(total, label_set)}')
        if num_good and not total[:-1].any():
            print(
                f'error: no pixel of {label_set.name} has a class: the raw label maps are from '
                'another data set',
                file=sys.stderr,
            )
            status = EXIT_FAILED_FILES
    return status


def describe(counts: np.ndarray, label_set: LabelSet) -> str:
    """One line on what label files hold: share of ignored pixels, classes that never occur.

    Args:
        counts: Pixels of each class and then of none, (N + 1,).
        label_set: Whose files they are.
    """
    counted = zip(label_set.classes, counts[:-1].tolist(), strict=True)
    absent = [name for name, count in counted if not count]
    line = (
        f'{counts[-1] / counts.sum():.1%} of the pixels are ignored, '
        f'{len(absent)} of {len(label_set.classes)} classes never occur'
    )
    if not absent:
        return line
    more = len(absent) - _NAMES_SHOWN
    shown = ', '.join(repr(name) for name in absent[:_NAMES_SHOWN])
    return f'{line}: {shown}' + (f' and {more} more' if more > 0 else '')


def write_list(path: Path, stems: Sequence[str]) -> None:
    """Write the list of images that a data set reads, last of all: it says that all are there."""
    content = ''.join(f'{stem}\n' for stem in stems)
    if path.is_file():
        before = path.read_text(encoding='utf-8', errors='replace')
        if before == content:
            return
        print(f'{path}: replaces a list of {len(before.split())} images')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content.encode())
    print(f'{path}: {len(stems)} images')
