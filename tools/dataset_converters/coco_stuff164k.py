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
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmseg_escnet.cli import make_parser, run_tool
from mmseg_escnet.datasets.benchmark_vocabularies import PUBLISHED_IMAGES, load_benchmark
from mmseg_escnet.datasets.conversion import (
    NO_SUCH_ID,
    Job,
    LabelSet,
    add_arguments,
    check_count,
    place,
    read_label,
    run,
)
from mmseg_escnet.errors import ESCNetError, first_few

NUM_IMAGES = PUBLISHED_IMAGES['coco_stuff']
SUFFIX = '_labelTrainIds.png'
UNLABELLED = 255
DOWNLOADS = 'https://github.com/nightrome/cocostuff#downloads'


class SplitFiles(NamedTuple):
    """The files of one split, by stem."""

    labels: dict[str, Path]
    images: dict[str, Path]


def label_set(split: str) -> LabelSet:
    """Pixel values of stuffthingmaps -> training ids."""
    classes = load_benchmark('coco_stuff171')
    table = np.full(256, NO_SUCH_ID)
    table[[entry.raw_id for entry in classes]] = np.arange(len(classes))
    table[UNLABELLED] = UNLABELLED
    names = tuple(entry.name for entry in classes)
    return LabelSet(f'COCO-Stuff {split}', f'annotations/{split}', table, names, UNLABELLED)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    splits = list(NUM_IMAGES)
    links = ('symlink', 'copy', 'none')
    add_arguments(parser, out='data/coco_stuff164k', splits=splits, default=splits, links=links)
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
    names = f' (missing: {first_few((f"{stem}.jpg" for stem in missing), 3)})'
    check_count(
        what=f'images of {split}',
        folder=raw / 'images' / split,
        found=len(files.images),
        expected=expected,
        remedy=f'unpack {split}.zip from {DOWNLOADS} into {raw}/images'
        + (names if missing else ''),
    )
    if missing:
        raise ESCNetError(
            f'{raw / "images" / split} lacks the images of {len(missing)} label maps{names}: '
            f'unpack {split}.zip from {DOWNLOADS} again.'
        )


def plan(args: argparse.Namespace, split: str) -> list[Job]:
    """Check the raw files of a split and list what is to be converted.

    Raises:
        ESCNetError: If something is missing.
    """
    need_images = args.link != 'none'
    files = find_split(args.raw, split)
    if not args.allow_partial:
        check_split(args.raw, split, files, need_images)
    without_image = files.labels.keys() - files.images.keys() if need_images else set()
    num_without_label = len(files.images.keys() - files.labels.keys())
    print(
        f'{split}: {len(files.labels)} of {NUM_IMAGES[split]} label maps'
        + (f', {len(without_image)} without image left out' if without_image else '')
        + (f', {num_without_label} images without label left out' if num_without_label else '')
    )
    return [
        Job(
            raw_label=raw_label,
            raw_image=files.images.get(stem),
            image=args.out / 'images' / split / f'{stem}.jpg' if need_images else None,
            labels=(args.out / 'annotations' / split / f'{stem}{SUFFIX}',),
        )
        for stem, raw_label in files.labels.items()
        if stem not in without_image
    ]


def main(argv: list[str] | None = None) -> int:
    """Convert the splits asked for.

    Returns:
        The exit status: 1 if a file failed.
    """
    args = parse_args(argv)
    if not args.raw.is_dir():
        raise ESCNetError(
            f'The folder {args.raw} does not exist: give the one COCO-Stuff was unpacked in, see '
            f'{DOWNLOADS}.'
        )
    plans = {split: plan(args, split) for split in args.splits}
    if not any(plans.values()):
        raise ESCNetError(
            f'{args.raw} holds no label map with its image in annotations/<split>/*.png and '
            f'images/<split>/*.jpg (splits: {", ".join(args.splits)}): unpack the files from '
            f'{DOWNLOADS} there.'
        )
    status = 0
    for split, jobs in plans.items():
        status |= run(
            jobs,
            out=args.out,
            read=read_label,
            sets=(label_set(split),),
            put_image=partial(place, link=args.link),
            workers=args.workers,
            description=f'COCO-Stuff {split}',
        )
    return status


if __name__ == '__main__':
    run_tool(main, interrupted='the same command goes on where this one stopped')
