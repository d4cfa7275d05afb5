"""Make label maps of PAS-20 and PAS-20b from PASCAL VOC 2012, for evaluation.

RAW is the folder VOC2012, or one above it:

    RAW/JPEGImages/*.jpg
    RAW/SegmentationClass/*.png           (palette: 0 background, 1..20 objects, 255 border)
    RAW/ImageSets/Segmentation/{train,val}.txt

from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar. It writes

    OUT/JPEGImages/*.jpg                  (links to RAW, where OUT is another folder)
    OUT/SegmentationClass20/*.png         (0..19 objects, 255 = background and border)
    OUT/SegmentationClass20b/*.png        (0..19 objects, 20 = background, 255 = border)
    OUT/ImageSets/Segmentation20/{train,val}.txt

After an interruption, run the same command again: it keeps the files that are finished.
"""

from __future__ import annotations

import numpy as np

from mmseg_escnet.cli import make_parser, run_tool
from mmseg_escnet.datasets.benchmark_vocabularies import PUBLISHED_IMAGES, load_benchmark
from mmseg_escnet.datasets.conversion import add_arguments, run_splits
from mmseg_escnet.datasets.label_sets import NO_SUCH_ID, LabelSet
from mmseg_escnet.datasets.raw_folders import devkit_jobs, find_folder

NUM_IMAGES = PUBLISHED_IMAGES['pascal_voc']
DOWNLOAD = 'http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar'
BACKGROUND, BORDER = 0, 255

OBJECTS = load_benchmark('voc20')


def label_sets() -> tuple[LabelSet, LabelSet]:
    """PAS-20 and PAS-20b: they differ in what becomes of the background."""
    table = np.full(256, NO_SUCH_ID)
    table[[entry.raw_id for entry in OBJECTS]] = np.arange(len(OBJECTS))
    table[BORDER] = 255
    names = tuple(entry.name for entry in OBJECTS)
    without, with_background = table.copy(), table.copy()
    without[BACKGROUND] = 255
    with_background[BACKGROUND] = len(OBJECTS)
    return (
        LabelSet('PAS-20', 'SegmentationClass20', without, names, ignored=255),
        LabelSet(
            'PAS-20b',
            'SegmentationClass20b',
            with_background,
            (*names, 'background'),
            ignored=255,
        ),
    )


def main(argv: list[str] | None = None) -> int:
    """Convert the splits asked for.

    Returns:
        The exit status: 1 if a file failed.
    """
    parser = make_parser(__doc__)
    add_arguments(parser, out='data/VOCdevkit/VOC2012', splits=['train', 'val'], default=['val'])
    args = parser.parse_args(argv)
    sets = label_sets()
    raw = find_folder(
        args.raw,
        inside=['SegmentationClass', 'ImageSets/Segmentation'],
        what='VOCdevkit/VOC2012',
        remedy=f'with {DOWNLOAD}',
    )
    plans = {
        split: devkit_jobs(
            raw,
            image_list=f'ImageSets/Segmentation/{split}.txt',
            label_folder=raw / 'SegmentationClass',
            label_suffix='.png',
            expected=NUM_IMAGES[split],
            remedy=f'unpack {DOWNLOAD} again',
            label_remedy=f'unpack {DOWNLOAD} again',
            out=args.out,
            sets=sets,
            allow_partial=args.allow_partial,
        )
        for split in args.splits
    }
    return run_splits(
        plans,
        args,
        name='PASCAL VOC',
        sets=lambda _: sets,
        image_list='ImageSets/Segmentation20',
    )


if __name__ == '__main__':
    run_tool(main, interrupted='the same command resumes where this one stopped')
