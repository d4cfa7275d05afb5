"""What the converters share: turning raw label maps into checked label files.

A converter lists its jobs, and defines how raw ids are read and which label files they become.
The same command resumes an interrupted conversion and updates label files whose raw labels were
corrected (``label_sets.made_of``).
"""

from __future__ import annotations

import argparse
import filecmp
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import ESCNetError
from ..files import read_label_file, read_label_map, write_file
from .label_sets import (
    FileOutcome,
    LabelSet,
    count_file,
    count_ids,
    describe,
    is_made_of,
    made_of,
    remove_outdated,
    to_file_ids,
    write_labels,
)
from .parallel import default_workers, parallel_map
from .raw_images import image_size

EXIT_FAILED_FILES = 1

_MOST_ERRORS = 10


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
    add_output_arguments(parser, out=out, links=links)
    parser.add_argument(
        '--splits',
        nargs='+',
        choices=splits,
        default=list(default),
        help=f'default: {" ".join(default)}',
    )
    parser.add_argument(
        '--allow-partial', action='store_true', help='convert an incomplete data set'
    )


def add_output_arguments(
    parser: argparse.ArgumentParser, *, out: str, links: Sequence[str] = ('symlink', 'copy')
) -> None:
    """Add the arguments that all converters share."""
    parser.add_argument('--out', type=Path, default=Path(out), help='default: %(default)s')
    parser.add_argument('--workers', type=int, default=default_workers(), help='processes')
    parser.add_argument(
        '--link',
        choices=links,
        default='symlink',
        help='how images get into OUT, unless they are there (default: %(default)s)',
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


def read_label(job: Job) -> np.ndarray:
    """The ids (height, width) in a raw label map that is a grey or palette PNG."""
    return read_label_map(job.raw_label)


def raw_content(job: Job) -> bytes:
    """The content of the raw label file."""
    return read_label_file(job.raw_label)


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
        if not target.samefile(source) and not filecmp.cmp(target, source, shallow=False):
            raise ESCNetError(
                f'{target} exists and differs from {source}: the folder belongs to another data '
                'set, so choose another --out, or remove the file if its source was replaced.'
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
    source: Callable[[Job], bytes] = raw_content,
) -> tuple[list[FileOutcome], list[np.ndarray]]:
    """Put an image into OUT and make its label files, unless they were made of the same content.

    A file that was made of other content is removed if its new content is invalid.

    Args:
        job: What to convert.
        read: Reads the raw ids of a job, (height, width), at the size of its image in OUT.
        sets: The label sets, in the order of ``job.labels``.
        put_image: Puts the image of a job into OUT.
        source: The content that determines the label map, together with its size and the label set.

    Returns:
        For each label set what became of its file, and the pixels of each class followed by the
        ignored ones, (N + 1,).

    Raises:
        ESCNetError: If a file is damaged, sizes differ, or a raw id does not exist.
    """
    put_image(job)
    size = image_size(job.image or job.raw_label)
    content = source(job)
    notes = [made_of(content, size, label_set) for label_set in sets]
    targets = list(zip(job.labels, sets, notes, strict=True))
    counts = [
        count_file(path, size, label_set) if is_made_of(path, note) else None
        for path, label_set, note in targets
    ]
    outcomes = [FileOutcome.UNCHANGED] * len(sets)
    if all(count is not None for count in counts):
        return outcomes, counts
    try:
        raw = read(job)
        if raw.shape != size:
            raise ESCNetError(
                f'Label map {job.raw_label} is {raw.shape[1]}x{raw.shape[0]} pixels but its image '
                f'{job.raw_image} is {size[1]}x{size[0]}: they are from different versions of the '
                'data set.'
            )
        for i, (path, label_set, note) in enumerate(targets):
            if counts[i] is None:
                ids = to_file_ids(raw, label_set, job.raw_label)
                outcomes[i] = write_labels(path, ids, note)
                counts[i] = count_ids(ids, label_set)
    except ESCNetError:
        for path, _, note in targets:
            remove_outdated(path, note)
        raise
    return outcomes, counts


def run(
    jobs: Sequence[Job],
    *,
    out: Path,
    read: Callable[[Job], np.ndarray],
    sets: tuple[LabelSet, ...],
    put_image: Callable[[Job], None],
    workers: int,
    description: str,
    source: Callable[[Job], bytes] = raw_content,
) -> int:
    """Run the jobs under a progress bar, and print what the label files contain.

    Returns:
        The exit status: 1 if a file failed, or if no pixel of a label set has a class.
    """
    for folder in {job.image.parent for job in jobs if job.image}:
        folder.mkdir(parents=True, exist_ok=True)
    totals = [np.zeros(len(label_set.classes) + 1, np.int64) for label_set in sets]
    outcomes, failed = [Counter() for _ in sets], []
    work = partial(convert, read=read, sets=sets, put_image=put_image, source=source)
    for outcome in parallel_map(work, jobs, workers=workers, description=description):
        if outcome.error is not None:
            failed.append(outcome.error)
            continue
        for i, (became, count) in enumerate(zip(*outcome.result, strict=True)):
            outcomes[i][became] += 1
            totals[i] += count

    for message in failed[:_MOST_ERRORS]:
        print(f'error: {message}', file=sys.stderr)
    if len(failed) > _MOST_ERRORS:
        print(f'error: {len(failed) - _MOST_ERRORS} more files failed', file=sys.stderr)
    num_good = len(jobs) - len(failed)
    status = EXIT_FAILED_FILES if failed else 0
    for label_set, became, total in zip(sets, outcomes, totals, strict=True):
        print(
            f'{label_set.name}: {became[FileOutcome.CONVERTED]} label maps converted, '
            f'{became[FileOutcome.UNCHANGED]} unchanged, {became[FileOutcome.UPDATED]} updated, '
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


def run_splits(
    plans: Mapping[str, Sequence[Job]],
    args: argparse.Namespace,
    *,
    name: str,
    sets: Callable[[str], tuple[LabelSet, ...]],
    read: Callable[[Job], np.ndarray] = read_label,
    put_image: Callable[..., None] = place,
    source: Callable[[Job], bytes] = raw_content,
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
        source: As in :func:`convert`.
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
            source=source,
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
