"""What the converters share: from raw label maps to checked label files.

A converter lists its jobs, and says how raw ids are read and which label files they become. Files
that are there and right are kept, so that the same command resumes an interrupted conversion.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import ESCNetError, first_few
from ..files import decode_label_map, encode_label_map, png_header, write_file
from .parallel import default_workers, parallel_map

EXIT_FAILED_FILES = 1
NO_SUCH_ID = -1

_MOST_ERRORS = 10


class LabelSet(NamedTuple):
    """One kind of label files, and how raw ids become its ids.

    Attributes:
        name: Name of the data set.
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
    """One image with its label map, and the files they become.

    Attributes:
        raw_label: The published label map.
        raw_image: The published image.
        image: Where it is put; None if only label maps are made.
        labels: The label files, one for each label set.
    """

    raw_label: Path
    raw_image: Path | None
    image: Path | None
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
    parser: argparse.ArgumentParser,
    *,
    out: str,
    splits: Sequence[str],
    default: Sequence[str],
    links: Sequence[str] = ('symlink', 'copy'),
) -> None:
    """Add the arguments that the converters of published data sets have in common."""
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
        help='how images get into OUT, where it is not RAW (default: %(default)s)',
    )
    parser.add_argument(
        '--allow-partial', action='store_true', help='convert what is there, however little'
    )


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


@contextmanager
def open_image(path: Path, what: str = 'Image') -> Iterator[Image.Image]:
    """Open an image with Pillow, to read its header or to decode it in the block.

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
    """The ids (height, width) of a job whose raw label map is a grey or palette PNG.

    Raises:
        ESCNetError: If it cannot be read.
    """
    try:
        content = job.raw_label.read_bytes()
    except OSError as error:
        raise ESCNetError(
            f'Label map {job.raw_label} cannot be read ({error.strerror or error}): check the '
            'disk and the permissions.'
        ) from error
    return decode_label_map(content, str(job.raw_label))


def place(job: Job, *, link: str) -> None:
    """Put the image of a job in place, but never in the place of another data set's.

    Args:
        job: The job.
        link: ``'symlink'`` or ``'copy'``.

    Raises:
        ESCNetError: If another file has its name, or the file system refuses symbolic links.
    """
    target, source = job.image, job.raw_image
    if target is None:
        return
    if target.exists():
        if not target.samefile(source) and target.stat().st_size != source.stat().st_size:
            raise ESCNetError(
                f'{target} exists and is not {source}: that folder belongs to another data set, '
                'so give --out one of its own.'
            )
        return
    target.unlink(missing_ok=True)  # a broken link
    if link == 'copy':
        part = target.with_name(f'.{target.name}.{os.getpid()}.part')
        try:
            shutil.copyfile(source, part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        return
    try:
        target.symlink_to(source.resolve())
    except OSError as error:
        raise ESCNetError(
            f'Symbolic link {target} cannot be made ({error.strerror or error}): use --link copy.'
        ) from error


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
        ESCNetError: If a file is damaged, sizes differ, or the publication has no such id.
    """
    put_image(job)
    size = image_size(job.image or job.raw_label)
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
            f'Label map {file} holds id {first_few(unknown)}, which no class of {label_set.name} '
            'has: it is from another data set, or already converted.'
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
    """Run the jobs under a progress bar, and print what the label files hold.

    Returns:
        The exit status: 1 if a file failed, or if the label files of a set hold no class at all.
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
        num_new += outcome.result.is_new
        for total, counts in zip(totals, outcome.result.counts, strict=True):
            total += counts

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
    """One line on what label files hold: share of ignored pixels, classes that never occur.

    Args:
        counts: Pixels of each class and then of none, (N + 1,).
        label_set: Whose files they are.
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
    """Write the list of images that a data set reads, last of all: it says that all are there."""
    content = ''.join(f'{stem}\n' for stem in stems)
    if path.is_file():
        before = path.read_text(encoding='utf-8', errors='replace')
        if before == content:
            return
        print(f'{path}: replaces a list of {len(before.split())} images')
    write_file(path, content.encode())
    print(f'{path}: {len(stems)} images')
