"""Make label maps of PC-59 and PC-459 from PASCAL-Context, for evaluation.

RAW is the folder VOC2010, or one above it, with the labels of PASCAL-Context in it:

    RAW/JPEGImages/*.jpg
    RAW/ImageSets/Main/{train,val}.txt
    RAW/trainval/*.mat                    (LabelMap: 1..459)

from http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar and trainval.tar.gz
of https://cs.stanford.edu/~roozbeh/pascal-context/. It writes

    OUT/JPEGImages/*.jpg                  (links to RAW, where OUT is another folder)
    OUT/SegmentationClassContext/*.png    (0 = none of the 59 classes, 1..59, as MMSegmentation)
    OUT/SegmentationClassContext459/*.png (16 bits: 0..458, 65535 = no class)
    OUT/ImageSets/SegmentationContext/{train,val}.txt

After an interruption, run the same command again: it keeps the files that are finished.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmseg_escnet.cli import make_parser, run_tool
from mmseg_escnet.datasets.benchmark_vocabularies import PUBLISHED_IMAGES, load_benchmark
from mmseg_escnet.datasets.conversion import Job, add_arguments, run_splits
from mmseg_escnet.datasets.label_sets import LabelSet
from mmseg_escnet.datasets.raw_folders import devkit_jobs, find_folder
from mmseg_escnet.errors import ESCNetError

NUM_IMAGES = PUBLISHED_IMAGES['pascal_context']
IMAGES_DOWNLOAD = 'http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar'
LABELS_DOWNLOAD = 'trainval.tar.gz of https://cs.stanford.edu/~roozbeh/pascal-context/'
VARIABLE = 'LabelMap'

CLASSES_459 = load_benchmark('pc459')
CLASSES_59 = load_benchmark('pc59')
# Names of PC-59 that differ in PASCAL-Context
RENAMED = {'diningtable': 'table'}


def label_sets() -> tuple[LabelSet, LabelSet]:
    """PC-59, whose classes are 59 of the 459, and PC-459."""
    raw_id = {entry.name: entry.raw_id for entry in CLASSES_459}
    table_459 = np.full(len(CLASSES_459) + 1, 65_535)
    table_459[list(raw_id.values())] = np.arange(len(CLASSES_459))
    names_59 = tuple(entry.name for entry in CLASSES_59)
    table_59 = np.zeros(len(CLASSES_459) + 1, np.int64)
    table_59[[raw_id[RENAMED.get(name, name)] for name in names_59]] = 1 + np.arange(len(names_59))
    return (
        LabelSet('PC-59', 'SegmentationClassContext', table_59, names_59, ignored=0, first_id=1),
        LabelSet('PC-459', 'SegmentationClassContext459', table_459, tuple(raw_id), ignored=65_535),
    )


def read(job: Job) -> np.ndarray:
    """Read the label map of a job, (height, width), uint16.

    Raises:
        ESCNetError: If the file cannot be read or has no such matrix.
    """
    from scipy.io import loadmat

    try:
        values = loadmat(job.raw_label, variable_names=[VARIABLE])[VARIABLE]
    except Exception as error:  # SciPy raises anything on a damaged file
        raise ESCNetError(
            f'MATLAB file {job.raw_label} cannot be read, or has no {VARIABLE} '
            f'({type(error).__name__}: {error}): unpack {LABELS_DOWNLOAD} again.'
        ) from error
    if values.dtype.kind in 'buif' and values.ndim == 2:
        with np.errstate(invalid='ignore'):
            ids = values.astype(np.uint16)
        if np.array_equal(ids, values):
            return ids
    raise ESCNetError(
        f'{VARIABLE} in the MATLAB file {job.raw_label} is not a matrix of ids from 0 to '
        f'65535: unpack {LABELS_DOWNLOAD} again.'
    )


def label_folder(raw: Path, given: Path) -> Path:
    """Where the .mat files are: in VOC2010, or beside it in the given folder."""
    beside = given / 'trainval'
    return beside if not (raw / 'trainval').is_dir() and beside.is_dir() else raw / 'trainval'


def main(argv: list[str] | None = None) -> int:
    """Convert the splits asked for.

    Returns:
        The exit status: 1 if a file failed.
    """
    parser = make_parser(__doc__)
    add_arguments(parser, out='data/VOCdevkit/VOC2010', splits=list(NUM_IMAGES), default=['val'])
    args = parser.parse_args(argv)
    sets = label_sets()
    raw = find_folder(
        args.raw,
        inside=['ImageSets/Main', 'JPEGImages'],
        what='VOCdevkit/VOC2010',
        remedy=f'with {IMAGES_DOWNLOAD}',
    )
    plans = {
        split: devkit_jobs(
            raw,
            image_list=f'ImageSets/Main/{split}.txt',
            label_folder=label_folder(raw, args.raw),
            label_suffix='.mat',
            expected=NUM_IMAGES[split],
            remedy=f'unpack {IMAGES_DOWNLOAD} again',
            label_remedy=f'unpack {LABELS_DOWNLOAD} into {raw}',
            out=args.out,
            sets=sets,
            allow_partial=args.allow_partial,
        )
        for split in args.splits
    }
    return run_splits(
        plans,
        args,
        name='PASCAL-Context',
        sets=lambda _: sets,
        read=read,
        image_list='ImageSets/SegmentationContext',
    )


if __name__ == '__main__':
    run_tool(main, interrupted='the same command resumes where this one stopped')
