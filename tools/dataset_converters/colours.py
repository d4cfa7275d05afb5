"""Turn label maps in colours into label maps of ids, for FolderDataset (docs/own_data.md).

    mmseg-escnet convert colours classes.csv --images IMAGES --labels LABELS --val 0.1

CLASSES has a class and its colour on each line: "road 128 64 128", "sofa | couch #c00080" (synonyms
as in a file of names), or name,r,g,b (class_dict.csv). LABELS has a label map in these colours
for each of IMAGES, of the same name and size. It writes

    OUT/images/{train,val}/...        (links to IMAGES)
    OUT/labels/{train,val}/....png    (0, 1, ...: the classes in the order of CLASSES)
    OUT/names.txt                     (their names)

Pixels of classes and colours given with --ignore are ignored (255, or 65535 with more than 255
classes). Any other colour is an error, unless --tolerance takes the nearest; where several are
equally near, the pixel is ignored. Label maps show the upright image, as the EXIF tags of a
photograph turn it.

After an interruption, or when label maps were corrected or added, run the same command again: it
makes those that are missing or have changed. An image stays in its split.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from os.path import splitext
from pathlib import Path, PurePosixPath

import numpy as np

from mmseg_escnet.class_files import parse_color, read_colored_classes
from mmseg_escnet.cli import make_parser, run_tool
from mmseg_escnet.datasets.conversion import Job, run_splits
from mmseg_escnet.datasets.label_colors import ColorTable, check_colors, made_from, read_ids
from mmseg_escnet.datasets.own_data import (
    add_arguments,
    check_names,
    check_split,
    label_set,
    report_leftovers,
    targets,
    vocabulary_of,
    write_names,
)
from mmseg_escnet.errors import ESCNetError, Problems, first_few
from mmseg_escnet.image_files import FoundImage, find_images

VAL = 'val'
USUALLY_IGNORED = {'void', 'unlabeled', 'unlabelled', 'ignore', 'ignored'}


def read_table(
    path: Path, *, ignore: Sequence[str], tolerance: int
) -> tuple[list[str], ColorTable]:
    """Read the classes.

    Args:
        path: CLASSES.
        ignore: Names and colours that are ignored.
        tolerance: See :class:`ColorTable`.

    Returns:
        The lines of the file of names, and which class a colour is.

    Raises:
        ESCNetError: If the file is invalid, or has no such name.
    """
    if not 0 <= tolerance <= 255:
        raise ESCNetError(f'--tolerance {tolerance} is out of range: give 0 to 255.')
    line_of = read_colored_classes(path)
    rows = vocabulary_of(list(line_of.values()))
    names = dict(zip(line_of, rows.names, strict=True))
    ignored = [parse_color(given) or list(line_of)[rows.find(given)] for given in ignore]
    lines = [line for color, line in line_of.items() if color not in ignored]
    if not lines:
        raise ESCNetError(f'--ignore leaves no class of {path}: give fewer.')
    for color, name in names.items():
        if name.lower() in USUALLY_IGNORED and color not in ignored:
            print(f'note: {name!r} is a class; if its pixels have none, add --ignore {name}')
    nothing = label_set('', tuple(lines)).ignored
    ids = {color: number for number, color in enumerate(c for c in line_of if c not in ignored)}
    colors = dict.fromkeys([*line_of, *ignored])
    table = ColorTable(
        colors=np.array(list(colors)),
        ids=np.array([ids.get(color, nothing) for color in colors]),
        names=tuple(names.get(color, 'ignored') for color in colors),
        ignored=nothing,
        tolerance=tolerance,
    )
    return lines, table


def find_files(
    folder: Path, what: str, *, suffix: str = '', leave_out: Sequence[Path]
) -> dict[str, FoundImage]:
    """The images in a folder: path below it, without ending -> image.

    Args:
        folder: Where to look, recursively.
        what: Option that names it.
        suffix: What their names have before the ending; others are not found.
        leave_out: Folders inside that are not searched.

    Raises:
        ESCNetError: If there is none, or two differ only in their ending.
    """
    if not folder.is_dir():
        raise ESCNetError(f'The folder {folder} of {what} does not exist: correct its path.')
    found: dict[str, FoundImage] = {}
    for image in find_images(folder, leave_out=leave_out):
        stem = splitext(image.name)[0]
        if not stem.endswith(suffix):
            continue
        other = found.setdefault(stem.removesuffix(suffix), image)
        if other is not image:
            raise ESCNetError(
                f'{other.path} and {image.path} differ only in their ending, so it is unclear '
                'which of them belongs to which: rename or remove one.'
            )
    return found


def find_pairs(args: argparse.Namespace) -> dict[str, tuple[FoundImage, FoundImage]]:
    """Each image with its label map, by path below their folder without ending.

    Raises:
        ESCNetError: If an image or a label map is alone.
    """
    images = find_files(args.images, '--images', leave_out=[args.labels, args.out])
    labels = find_files(
        args.labels, '--labels', suffix=args.label_suffix, leave_out=[args.images, args.out]
    )
    beside = {label.path for label in labels.values()} if args.label_suffix else ()
    images = {stem: image for stem, image in images.items() if image.path not in beside}
    problems = Problems()
    for what, these, others, where in (
        ('images', images, labels, args.labels),
        ('label maps', labels, images, args.images),
    ):
        alone = [str(these[stem].path) for stem in these if stem not in others]
        with problems:
            if alone:
                raise ESCNetError(
                    f'{len(alone)} of {len(these)} {what} have no file of their name in {where} '
                    f'({first_few(alone, 3)}): add it, remove them, or give --label-suffix if the '
                    'names of label maps end differently.'
                )
    problems.raise_all()
    return {stem: (image, labels[stem]) for stem, image in images.items()}


def is_in_val(stem: str, share: float, seed: int) -> bool:
    """Whether an image is in val: by its name alone, so that others do not move it (ours)."""
    digest = hashlib.sha256(f'{seed}/{stem}'.encode()).digest()
    return int.from_bytes(digest[:8], 'big') < share * 2**64


def split(stems: Collection[str], args: argparse.Namespace) -> dict[str, list[str]]:
    """The images of each split.

    Raises:
        ESCNetError: If ``--val`` is invalid, lists unknown images, or leaves a split empty.
    """
    if args.val is None:
        return {args.split: list(stems)}
    try:
        share = float(args.val)
    except ValueError:
        chosen = read_list(Path(args.val), stems)
    else:
        if not 0 < share < 1:
            raise ESCNetError(f'--val {args.val} must be a share between 0 and 1, or a file.')
        chosen = {stem for stem in stems if is_in_val(stem, share, args.seed)}
    splits = {
        args.split: [stem for stem in stems if stem not in chosen],
        VAL: [stem for stem in stems if stem in chosen],
    }
    for name, members in splits.items():
        if not members:
            raise ESCNetError(
                f'--val {args.val} leaves none of {len(stems)} images for {name}: give another '
                'share or --seed, or list the images of val in a file.'
            )
    return splits


def read_list(path: Path, stems: Collection[str]) -> set[str]:
    """The images that a file lists, one per line, with or without ending.

    Raises:
        ESCNetError: If it cannot be read, or lists others.
    """
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ESCNetError(
            f'--val {path} is neither a share such as 0.1 nor a list of images that can be read '
            f'({getattr(error, "strerror", None) or error}): correct it.'
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    found = [name if name in stems else splitext(name)[0] for name in names]
    unknown = [name for name, stem in zip(names, found, strict=True) if stem not in stems]
    if unknown:
        raise ESCNetError(
            f'{len(unknown)} of {len(names)} names in {path} are of no image '
            f'({first_few(unknown, 3)}): write paths below the folder of --images, one per line.'
        )
    return set(found)


def check_splits(plans: Mapping[str, Sequence[Job]], out: Path) -> None:
    """Check that no image is in another split of OUT, made before.

    Raises:
        ESCNetError: If one is.
    """
    others = [path for path in sorted((out / 'images').glob('*')) if path.is_dir()]
    twice = [
        str(twin)
        for name, jobs in plans.items()
        for other in others
        for job in jobs
        if other.name != name
        and (twin := other / job.image.relative_to(out / 'images' / name)).is_file()
        and filecmp.cmp(twin, job.raw_image, shallow=False)
    ]
    if twice:
        raise ESCNetError(
            f'{len(twice)} images are in another split of {out} already ({first_few(twice, 3)}): '
            'use the same --val and --seed as before, or another --out, or remove them and their '
            'label maps there.'
        )


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('classes', metavar='CLASSES', type=Path, help='names with colours')
    parser.add_argument('--labels', type=Path, required=True, help='folder of the label maps')
    parser.add_argument(
        '--label-suffix',
        default='',
        metavar='TEXT',
        help="what the names of label maps have behind those of images: '_L' for a_L.png of a.png",
    )
    parser.add_argument(
        '--ignore',
        nargs='+',
        default=[],
        metavar='NAME|R,G,B',
        help='classes and colours whose pixels have no class',
    )
    parser.add_argument(
        '--tolerance',
        type=int,
        default=0,
        metavar='N',
        help='take the nearest class for colours up to N away in red, green and blue (default: 0)',
    )
    add_arguments(parser)
    parser.add_argument(
        '--val',
        metavar='SHARE|FILE',
        help='put this share of the images, or those listed in a file, into val instead of SPLIT',
    )
    parser.add_argument('--seed', type=int, default=0, help='which images --val chooses')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert a folder of label maps.

    Returns:
        The exit status: 1 if an image failed.
    """
    args = parse_args(argv)
    check_split(args.split)
    if args.val is not None and args.split == VAL:
        raise ESCNetError('--val with --split val leaves no other split: give one of the two.')
    lines, table = read_table(args.classes, ignore=args.ignore, tolerance=args.tolerance)
    names = vocabulary_of(lines).names
    check_names(args.out, lines)
    pairs = find_pairs(args)
    plans = {
        name: [
            Job(labels.path, image.path, *targets(args.out, name, PurePosixPath(image.name)))
            for image, labels in map(pairs.get, members)
        ]
        for name, members in split(pairs, args).items()
    }
    print(', '.join(f'{name}: {len(jobs)} images' for name, jobs in plans.items()))
    check_splits(plans, args.out)
    jobs = [job for jobs in plans.values() for job in jobs]
    check_colors(jobs, table, label_set('', names), args.workers)
    write_names(args.out, lines)
    status = run_splits(
        plans,
        args,
        name='colours',
        sets=lambda name: (label_set(name, names),),
        read=partial(read_ids, table=table),
        source=partial(made_from, table=table),
    )
    for name, jobs in plans.items():
        report_leftovers(jobs, args.out, name)
    return status


if __name__ == '__main__':
    run_tool(main, interrupted='the same command resumes where this one stopped')
