"""What the converters of own data share: the layout that FolderDataset reads (docs/own_data.md)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ..class_files import parse_classes, read_classes
from ..errors import ESCNetError, first_few
from ..files import write_file
from ..vocabulary import Vocabulary
from .conversion import Job, add_output_arguments
from .label_sets import NO_SUCH_ID, LabelSet

_NAMES = 'names.txt'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of where images and label maps come from and go to."""
    parser.add_argument('--images', type=Path, required=True, help='folder of the images')
    parser.add_argument('--split', default='train', help='train, val, ... (default: %(default)s)')
    add_output_arguments(parser, out='data/mine')


def check_split(split: str) -> None:
    """Check that a split is the name of a folder.

    Raises:
        ESCNetError: If it is not.
    """
    if Path(split).name != split or split in ('.', '..'):
        raise ESCNetError(f'--split {split!r} must be a plain name such as train.')


def targets(out: Path, split: str, name: PurePosixPath) -> tuple[Path, tuple[Path]]:
    """Where the image of this name and its label map are put."""
    return out / 'images' / split / name, ((out / 'labels' / split / name).with_suffix('.png'),)


def label_set(split: str, names: tuple[str, ...]) -> LabelSet:
    """Label maps of class ids, and 255 for pixels without a class, or 65535 if 255 is a class."""
    ignored = 255 if len(names) <= 255 else 65_535
    table = np.full(max(ignored, len(names)) + 1, NO_SUCH_ID)
    table[: len(names)], table[ignored] = np.arange(len(names)), ignored
    return LabelSet(split, f'labels/{split}', table, names, ignored)


def check_names(out: Path, lines: Sequence[str]) -> None:
    """Check that OUT has no file of other names.

    Raises:
        ESCNetError: If it has one.
    """
    path = out / _NAMES
    if path.is_file() and list(read_classes(path)) != list(parse_classes('\n'.join(lines))):
        raise ESCNetError(
            f'{path} exists with other names, but the splits of a data set need the same '
            'classes: choose another --out, or, if the classes were changed, remove the file and '
            'convert every split again.'
        )


def write_names(out: Path, lines: Sequence[str]) -> None:
    """Write the file of names; one that exists may have phrases by now."""
    if not (out / _NAMES).is_file():
        write_file(out / _NAMES, ''.join(f'{line}\n' for line in lines).encode())


def vocabulary_of(lines: Sequence[str]) -> Vocabulary:
    """The classes in lines of the file of names.

    Raises:
        ESCNetError: If one is invalid, or listed twice.
    """
    classes = parse_classes('\n'.join(lines))
    return Vocabulary.create(list(classes), phrases=classes)


def report_leftovers(jobs: Collection[Job], out: Path, split: str) -> None:
    """Warn of label maps in OUT that belong to no job."""
    folder = out / 'labels' / split
    wanted = {job.labels[0] for job in jobs}
    if others := sorted(map(str, set(folder.rglob('*.png')) - wanted)):
        print(
            f'warning: {len(others)} label maps in {folder} are of no image that was '
            f'given ({first_few(others, 3)}): if the images were removed, remove these and their '
            'images in OUT too',
            file=sys.stderr,
        )
