"""What the converters share: turning raw label maps into checked label files.

A converter lists its jobs, and defines how raw ids are read and which label files they become.
Valid output files are kept, so the same command resumes an interrupted conversion.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import ESCNetError, first_few
from ..files import encode_label_map, png_header, read_label_map, write_file
from .parallel import default_workers, parallel_map

EXIT_FAILED_FILES = 1
NO_SUCH_ID = -1

_MOST_ERRORS = 10


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


class Job(NamedTuple):
    """An image with its label map, and the output files.

    Attributes:
        raw_label: The published label map.
        raw_image: The published image.
        image: The image in OUT; None if only label maps are made.
        labels: The label files, one per label set.
    """

    raw_label: Path
    raw_image: Path | None
    image: Path | None
    labels: tuple[Path, ...]


def add_arguments(
    parser: argparse.ArgumentParser,
    *,
    out: str,
    splits: Sequence[str],
    default: Sequence[str],
    links: Sequence[str] = ('symlink', 'copy'),
) -> None:
    """Add the arguments shared by the converters of published data sets."""
    parser.add_argument('raw', metavar='RAW', type=Path)
    parser.add_argument('--out', type=Path, default=Path(out), help='default: %(default)s')
    parser.add_argument(
        '--splits',
        nargs='+',
        choices=splits,
        default=list(default),
        help=f'default: {" ".join(default)}',
    )
    parser.add_argument('--workers', type=int, default=default_workers(), help='processes')
    parser.add_argument(
        '--link',
        choices=links,
        default='symlink',
        help='how images get into OUT, if it is not RAW (default: %(default)s)',
    )
    parser.add_argument(
        '--allow-partial', action='store_true', help='convert an incomplete data set'
    )


def check_count(*, what: str, folder: Path, found: int, expected: int, remedy: str) -> None:
    """Compare a number of files with the published one.

    Raises:
        ESCNetError: If they differ; ``remedy`` says what to do.
    """
    if found != expected:
        raise ESCNetError(
            f'{folder} holds {found} of {expected} {what}: {remedy}, or pass --allow-partial '
            'to convert an incomplete data set.'
        )


@contextmanager
def open_image(path: Path, what: str = 'Image') -> Iterator[Image.Image]:
    """Open an image with Pillow, to read its header or decode it in the block.

    Raises:
        ESCNetError: If it cannot be read.
    """
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ESCNetError):
            raise
        raise ESCNetError(
            f'{what} {path} cannot be read ({error or type(error).__name__}): it is damaged or '
            'incomplete, so unpack or download it again.'
        ) from error


def image_size(path: Path) -> tuple[int, int]:
    """Size (height, width) from the header of an image.

    Raises:
        ESCNetError: If it cannot be read.
    """
    with open_image(path) as image:
        return image.height, image.width


def read_label(job: Job) -> np.ndarray:
    """The ids (height, width) in a raw label map that is a grey or palette PNG."""
    return read_label_map(job.raw_label)


def place(job: Job, *, link: str) -> None:
    """Link or copy the image of a job into OUT, without replacing that of another data set.

    Args:
        job: The job.
        link: ``'symlink'`` or ``'copy'``.

    Raises:
        ESCNetError: If a different file has its name, or it cannot be written.
    """
    target, source = job.image, job.raw_image
    if target is None:
        return
    if target.exists():
        if not target.samefile(source) and target.stat().st_size != source.stat().st_size:
            raise ESCNetError(
                f'{target} exists and differs from {source}: the folder belongs to another data '
                'set, so choose another --out.'
            )
        return
    target.unlink(missing_ok=True)  # a broken link
    if link == 'copy':
        return write_file(target, source.read_bytes())
    try:
        target.symlink_to(source.resolve())
    except OSError as error:
        raise ESCNetError(
            f'Cannot create the symbolic link {target} ({error.strerror or error}): use '
            '--link copy.'
        ) from error


def convert(
    job: Job,
    *,
    read: Callable[[Job], np.ndarray],
    sets: tuple[LabelSet, ...],
    put_image: Callable[[Job], None],
) -> tuple[list[bool], list[np.ndarray]]:
    """Put an image into OUT and make its label files; valid files are kept.

    Args:
        job: What to convert.
        read: Reads the raw ids of a job, (height, width), at the size of its image in OUT.
        sets: The label sets, in the order of ``job.labels``.
        put_image: Puts the image of a job into OUT.

    Returns:
        For each label set whether its file was written, and the pixels of each class followed by
        the ignored ones, (N + 1,).

    Raises:
        ESCNetError: If a file is damaged, sizes differ, or a raw id does not exist.
    """
    put_image(job)
    size = image_size(job.image or job.raw_label)
    counts = [
        count_file(path, size, label_set) for path, label_set in zip(job.labels, sets, strict=True)
    ]
    is_new = [count is None for count in counts]
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
    return is_new, counts


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
    """Run the jobs under a progress bar, and print what the label files contain.

    Returns:
        The exit status: 1 if a file failed, or if no pixel of a label set has a class.
    """
    for folder in {job.image.parent for job in jobs if job.image}:
        folder.mkdir(parents=True, exist_ok=True)
    totals = [np.zeros(len(label_set.classes) + 1, np.int64) for label_set in sets]
    num_new, failed = np.zeros(len(sets), np.int64), []
    work = partial(convert, read=read, sets=sets, put_image=put_image)
    for outcome in parallel_map(work, jobs, workers=workers, description=description):
        if outcome.error is not None:
            failed.append(outcome.error)
            continue
        is_new, counts = outcome.result
        num_new += is_new
        for total, count in zip(totals, counts, strict=True):
            total += count

    for message in failed[:_MOST_ERRORS]:
        print(f'error: {message}', file=sys.stderr)
    if len(failed) > _MOST_ERRORS:
        print(f'error: {len(failed) - _MOST_ERRORS} more files failed', file=sys.stderr)
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


def run_splits(
    plans: Mapping[str, Sequence[Job]],
    args: argparse.Namespace,
    *,
    name: str,
    sets: Callable[[str], tuple[LabelSet, ...]],
    read: Callable[[Job], np.ndarray] = read_label,
    put_image: Callable[..., None] = place,
    image_list: str | None = None,
) -> int:
    """:func:`run` the jobs of each split, and write the list of its images.

    Args:
        plans: The jobs of each split.
        args: What :func:`add_arguments` read.
        name: Name of the data set, for the progress bar.
        sets: The label sets of a split, in the order of ``Job.labels``.
        read: Reads the raw ids of a job, (height, width), at the size of its image in OUT.
        put_image: Puts the image of a job in place; called with ``link``.
        image_list: Folder of the lists ``SPLIT.txt``, inside OUT; None to write none.

    Returns:
        The exit status: 1 if a file failed.
    """
    status = 0
    for split, jobs in plans.items():
        status |= run(
            jobs,
            out=args.out,
            read=read,
            sets=sets(split),
            put_image=partial(put_image, link=args.link),
            workers=args.workers,
            description=f'{name} {split}',
        )
        if image_list is not None:
            stems = [job.image.stem for job in jobs]
            write_list(args.out / image_list / f'{split}.txt', stems)
    return status


def write_list(path: Path, stems: Sequence[str]) -> None:
    """Write the list of images of a data set; last of all, since it means they are complete."""
    content = ''.join(f'{stem}\n' for stem in stems)
    if path.is_file():
        before = path.read_text(encoding='utf-8', errors='replace')
        if before == content:
            return
        print(f'{path}: replacing a list of {len(before.split())} images')
    write_file(path, content.encode())
    print(f'{path}: {len(stems)} images')
