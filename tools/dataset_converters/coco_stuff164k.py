"""Convert the label maps of COCO-Stuff 164k for training.

RAW is the folder that COCO-Stuff was unpacked in:

    RAW/images/{train2017,val2017}/*.jpg
    RAW/annotations/{train2017,val2017}/*.png     (or RAW/{train2017,val2017}/*.png)

with images from http://images.cocodataset.org/zips/{train2017,val2017}.zip and label maps from
stuffthingmaps_trainval2017.zip, see https://github.com/nightrome/cocostuff#downloads. It writes

    OUT/images/{train2017,val2017}/*.jpg          (links to RAW)
    OUT/annotations/{train2017,val2017}/*_labelTrainIds.png     (0..170, 255 = unlabelled)

After an interruption, run the same command again: it keeps the files that are finished.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

import numpy as np

from mmseg_escnet.cli import make_parser, run_tool
from mmseg_escnet.datasets.benchmark_vocabularies import PUBLISHED_IMAGES, load_benchmark
from mmseg_escnet.datasets.conversion import (
    Job,
    add_arguments,
    check_count,
    run_splits,
)
from mmseg_escnet.datasets.label_sets import NO_SUCH_ID, LabelSet
from mmseg_escnet.errors import ESCNetError, first_few

NUM_IMAGES = PUBLISHED_IMAGES['coco_stuff']
SUFFIX = '_labelTrainIds.png'
UNLABELLED = 255
DOWNLOADS = 'https://github.com/nightrome/cocostuff#downloads'


def label_sets(split: str) -> tuple[LabelSet]:
    """Pixel values of stuffthingmaps -> training ids."""
    classes = load_benchmark('coco_stuff171')
    table = np.full(256, NO_SUCH_ID)
    table[[entry.raw_id for entry in classes]] = np.arange(len(classes))
    table[UNLABELLED] = UNLABELLED
    names = tuple(entry.name for entry in classes)
    return (LabelSet(f'COCO-Stuff {split}', f'annotations/{split}', table, names, UNLABELLED),)


def find_split(raw: Path, split: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """The raw label maps and images of a split by stem, in any of the published layouts."""
    labels, images = {}, {}
    for folder in (raw / 'annotations', raw, raw / 'stuffthingmaps'):
        labels = labels or {
            path.stem: path
            for path in sorted((folder / split).glob('*.png'))
            if not path.name.endswith(SUFFIX)  # made by a run that wrote into RAW
        }
    for folder in (raw / 'images', raw):
        images = images or {path.stem: path for path in sorted((folder / split).glob('*.jpg'))}
    return labels, images


def check_split(
    raw: Path, split: str, labels: Collection[str], images: Collection[str] | None
) -> None:
    """Compare a split with its publication before anything is written.

    Args:
        raw: RAW.
        split: The split.
        labels: Stems of the label maps found.
        images: Stems of the images found; None if no images are needed.

    Raises:
        ESCNetError: If label maps or images are missing.
    """
    expected = NUM_IMAGES[split]
    check_count(
        what=f'label maps of {split}',
        folder=raw / 'annotations' / split,
        found=len(labels),
        expected=expected,
        remedy=f'unpack stuffthingmaps_trainval2017.zip from {DOWNLOADS} into {raw}/annotations',
    )
    if images is None:
        return
    missing = sorted(set(labels) - set(images))
    names = f' (missing: {first_few((f"{stem}.jpg" for stem in missing), 3)})'
    check_count(
        what=f'images of {split}',
        folder=raw / 'images' / split,
        found=len(images),
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
    """Check the raw files of a split and list the jobs.

    Raises:
        ESCNetError: If something is missing.
    """
    need_images = args.link != 'none'
    labels, images = find_split(args.raw, split)
    if not args.allow_partial:
        check_split(args.raw, split, labels, images if need_images else None)
    without_image = labels.keys() - images.keys() if need_images else set()
    num_without_label = len(images.keys() - labels.keys())
    print(
        f'{split}: {len(labels)} of {NUM_IMAGES[split]} label maps'
        + (f', {len(without_image)} without image left out' if without_image else '')
        + (f', {num_without_label} images without label left out' if num_without_label else '')
    )
    return [
        Job(
            raw_label=raw_label,
            raw_image=images.get(stem),
            image=args.out / 'images' / split / f'{stem}.jpg' if need_images else None,
            labels=(args.out / 'annotations' / split / f'{stem}{SUFFIX}',),
        )
        for stem, raw_label in labels.items()
        if stem not in without_image
    ]


def main(argv: list[str] | None = None) -> int:
    """Convert the splits asked for.

    Returns:
        The exit status: 1 if a file failed.
    """
    parser, splits = make_parser(__doc__), list(NUM_IMAGES)
    links = ('symlink', 'copy', 'none')
    add_arguments(parser, out='data/coco_stuff164k', splits=splits, default=splits, links=links)
    args = parser.parse_args(argv)
    if not args.raw.is_dir():
        raise ESCNetError(
            f'The folder {args.raw} does not exist: give the one that COCO-Stuff was unpacked in, '
            f'see {DOWNLOADS}.'
        )
    plans = {split: plan(args, split) for split in args.splits}
    if not any(plans.values()):
        raise ESCNetError(
            f'{args.raw} holds no label map with its image in annotations/<split>/*.png and '
            f'images/<split>/*.jpg (splits: {", ".join(args.splits)}): unpack the files from '
            f'{DOWNLOADS} there.'
        )
    return run_splits(plans, args, name='COCO-Stuff', sets=label_sets)


if __name__ == '__main__':
    run_tool(main, interrupted='the same command resumes where this one stopped')
