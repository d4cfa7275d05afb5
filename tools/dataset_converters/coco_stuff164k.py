"""Convert the label maps of COCO-Stuff 164k for training.

RAW is the folder that COCO-Stuff was unpacked in:

    RAW/images/{train2017,val2017}/*.jpg
    RAW/annotations/{train2017,val2017}/*.png     (or RAW/{train2017,val2017}/*.png)

with images from http://images.cocodataset.org/zips/{train2017,val2017}.zip and label maps from
stuffthingmaps_trainval2017.zip, see https://github.com/nightrome/cocostuff#downloads. Written are

    OUT/images/{train2017,val2017}/*.jpg          (links to RAW)
    OUT/annotations/{train2017,val2017}/*_labelTrainIds.png     (0..170, 255 = unlabelled)

Run the same command again after an interruption: whole files are kept.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmseg_escnet.cli import run_tool
from mmseg_escnet.datasets.benchmark_vocabularies import PUBLISHED_IMAGES, load_benchmark
from mmseg_escnet.datasets.conversion import (
    EXIT_FAILED_FILES,
    check_count,
    default_workers,
    parallel_map,
    place_image,
)
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.files import decode_label_map, encode_label_map, png_header, write_file

NUM_IMAGES = PUBLISHED_IMAGES['coco_stuff']
SUFFIX = '_labelTrainIds.png'
UNLABELLED = 255
DOWNLOADS = 'https://github.com/nightrome/cocostuff#downloads'
ERRORS_SHOWN = 10

CLASSES = load_benchmark('coco_stuff171')
# Pixel value of stuffthingmaps -> training id; -1 where no class has the value.
TRAIN_ID = np.full(256, -1, np.int16)
TRAIN_ID[[entry.raw_id for entry in CLASSES]] = np.arange(len(CLASSES))
TRAIN_ID[UNLABELLED] = UNLABELLED


class Job(NamedTuple):
    """One label map to convert, with its image."""

    raw_label: Path
    label: Path
    raw_image: Path | None
    image: Path


class SplitFiles(NamedTuple):
    """The files of one split, by stem."""

    labels: dict[str, Path]
    images: dict[str, Path]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('raw', metavar='RAW', type=Path)
    parser.add_argument('--out', type=Path, default=Path('data/coco_stuff164k'))
    parser.add_argument('--splits', nargs='+', choices=list(NUM_IMAGES), default=list(NUM_IMAGES))
    parser.add_argument('--workers', type=int, default=default_workers(), help='processes')
    parser.add_argument(
        '--link',
        choices=('symlink', 'copy', 'none'),
        default='symlink',
        help='how images get into OUT (default: %(default)s)',
    )
    parser.add_argument(
        '--allow-partial', action='store_true', help='convert what is there, however little'
    )
    return parser.parse_args(argv)


def find_split(raw: Path, split: str) -> SplitFiles:
    """Find the raw label maps and images of a split in the published layouts."""
    labels, images = {}, {}
    for folder in (raw / 'annotations', raw, raw / 'stuffthingmaps'):
        labels = labels or {
            path.stem: path
            for path in sorted((folder / split).glob('*.png'))
            if not path.name.endswith(SUFFIX)  # made by a run that wrote into RAW
        }
    for folder in (raw / 'images', raw):
        images = images or {path.stem: path for path in sorted((folder / split).glob('*.jpg'))}
    return SplitFiles(labels, images)


def check_split(raw: Path, split: str, files: SplitFiles, need_images: bool) -> None:
    """Compare a split with its publication before anything is written.

    Raises:
        ESCNetError: If label maps or images are missing.
    """
    expected = NUM_IMAGES[split]
    check_count(
        what=f'label maps of {split}',
        folder=raw / 'annotations' / split,
        found=len(files.labels),
        expected=expected,
        remedy=f'unpack stuffthingmaps_trainval2017.zip from {DOWNLOADS} into {raw}/annotations',
    )
    if not need_images:
        return
    missing = sorted(files.labels.keys() - files.images.keys())
    first = f' (first missing: {", ".join(f"{stem}.jpg" for stem in missing[:3])})'
    check_count(
        what=f'images of {split}',
        folder=raw / 'images' / split,
        found=len(files.images),
        expected=expected,
        remedy=f'unpack {split}.zip from {DOWNLOADS} into {raw}/images'
        + (first if missing else ''),
    )
    if missing:
        raise ESCNetError(
            f'{raw / "images" / split} lacks the images of {len(missing)} label maps{first}: '
            f'unpack {split}.zip from {DOWNLOADS} again.'
        )


def convert(job: Job, *, link: str) -> np.ndarray | None:
    """Convert one label map and put its image in place; what is there whole is kept.

    Args:
        job: What to convert.
        link: How the image gets into place.

    Returns:
        Pixels of each of the 256 training ids, or None if the label map was there.

    Raises:
        ESCNetError: If the file cannot be read or holds an id that no class has.
    """
    if job.raw_image is not None:
        place_image(job.raw_image, job.image, link)
    header = png_header(job.label)
    raw_header = png_header(job.raw_label)
    if header is not None and raw_header is not None and header[:2] == raw_header[:2]:
        return None
    try:
        content = job.raw_label.read_bytes()
    except OSError as error:
        raise ESCNetError(
            f'Label map {job.raw_label} cannot be read ({error.strerror or error}): check the '
            'disk and the permissions.'
        ) from error
    raw = decode_label_map(content, str(job.raw_label))
    counts = np.bincount(raw.ravel(), minlength=256)
    present = np.flatnonzero(counts)
    unknown = [value for value in present.tolist() if value > 255 or TRAIN_ID[value] < 0]
    if unknown:
        raise ESCNetError(
            f'Label map {job.raw_label} holds id {", ".join(map(str, unknown[:5]))}, which no '
            'class of COCO-Stuff has: it is not from stuffthingmaps, or already converted.'
        )
    write_file(job.label, encode_label_map(TRAIN_ID.astype(np.uint8)[raw]))
    train_counts = np.zeros(256, np.int64)
    train_counts[TRAIN_ID[present]] = counts[present]
    return train_counts


def plan(args: argparse.Namespace) -> list[Job]:
    """Check the raw files and list what is to be converted.

    Raises:
        ESCNetError: If something is missing.
    """
    if not args.raw.is_dir():
        raise ESCNetError(
            f'The folder {args.raw} does not exist: give the one COCO-Stuff was unpacked in, see '
            f'{DOWNLOADS}.'
        )
    need_images = args.link != 'none'
    found = {split: find_split(args.raw, split) for split in args.splits}
    jobs = []
    for split, files in found.items():
        if not args.allow_partial:
            check_split(args.raw, split, files, need_images)
        without_image = files.labels.keys() - files.images.keys() if need_images else set()
        for stem, raw_label in files.labels.items():
            if stem not in without_image:
                jobs.append(
                    Job(
                        raw_label=raw_label,
                        label=args.out / 'annotations' / split / f'{stem}{SUFFIX}',
                        raw_image=files.images.get(stem),
                        image=args.out / 'images' / split / f'{stem}.jpg',
                    )
                )
        num_without_label = len(files.images.keys() - files.labels.keys())
        print(
            f'{split}: {len(files.labels)} of {NUM_IMAGES[split]} label maps'
            + (f', {len(without_image)} without image left out' if without_image else '')
            + (f', {num_without_label} images without label left out' if num_without_label else '')
        )
    if not jobs:
        raise ESCNetError(
            f'{args.raw} holds no label map with its image in annotations/<split>/*.png and '
            f'images/<split>/*.jpg (splits: {", ".join(args.splits)}): unpack the files from '
            f'{DOWNLOADS} there.'
        )
    return jobs


def main(argv: list[str] | None = None) -> int:
    """Convert the splits asked for.

    Returns:
        The exit status: 1 if a file failed.
    """
    args = parse_args(argv)
    jobs = plan(args)
    for folder in {job.label.parent for job in jobs} | {job.image.parent for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)

    counts, failed, converted = np.zeros(256, np.int64), [], 0
    work = partial(convert, link=args.link)
    for outcome in parallel_map(work, jobs, workers=args.workers, description='COCO-Stuff'):
        if outcome.error is not None:
            failed.append(outcome.error)
        elif outcome.result is not None:
            converted += 1
            counts += outcome.result

    for message in failed[:ERRORS_SHOWN]:
        print(f'error: {message}', file=sys.stderr)
    if len(failed) > ERRORS_SHOWN:
        print(f'error: {len(failed) - ERRORS_SHOWN} more files failed', file=sys.stderr)
    skipped = len(jobs) - converted - len(failed)
    print(
        f'{args.out}: {converted} label maps converted, {skipped} already there, '
        f'{len(failed)} failed'
    )
    if converted:
        num_seen = np.count_nonzero(counts[: len(CLASSES)])
        print(
            f'in those converted: {num_seen} of {len(CLASSES)} classes occur, '
            f'{counts[UNLABELLED] / counts.sum():.1%} of the pixels are unlabelled'
        )
    return EXIT_FAILED_FILES if failed else 0


if __name__ == '__main__':
    run_tool(main, interrupted='the same command goes on where this one stopped')
