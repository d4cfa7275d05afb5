"""Make label maps of A-847, the 847 classes of ADE20K-full, for evaluation.

RAW is the folder ADE20K_2021_17_01 (registration: see below), or one above it:

    RAW/images/ADE/{training,validation}/*/*/*.jpg, *_seg.png

from https://groups.csail.mit.edu/vision/datasets/ADE20K/request_data/. It writes

    OUT/images_847/{training,validation}/*.jpg
    OUT/annotations_847/{training,validation}/*.png   (16 bits: 0..846, 65535 = no class)
    OUT/annotations_847/{training,validation}.txt     (the list of images)

The published figures of A-847 were taken on images shrunk to a shorter side of 512 pixels (by
MaskFormer's preparation: bilinear images saved as JPEG, nearest labels), and so are these;
--short-side 0 keeps the photographs, some of 10 million pixels, as they are.

After an interruption, run the same command again: it keeps the files that are finished.
"""

from __future__ import annotations

import argparse
import io
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmseg_escnet.cli import make_parser, run_tool
from mmseg_escnet.datasets.benchmark_vocabularies import PUBLISHED_IMAGES, load_benchmark
from mmseg_escnet.datasets.conversion import (
    Job,
    add_arguments,
    check_count,
    place,
    run_splits,
)
from mmseg_escnet.datasets.label_sets import LabelSet
from mmseg_escnet.datasets.raw_folders import find_folder
from mmseg_escnet.datasets.raw_images import open_image
from mmseg_escnet.errors import ESCNetError, first_few
from mmseg_escnet.files import sha256, write_file

NUM_IMAGES = PUBLISHED_IMAGES['ade20k_full']
SUFFIX = '_seg.png'
DOWNLOAD = (
    'with ADE20K_2021_17_01.zip from '
    'https://groups.csail.mit.edu/vision/datasets/ADE20K/request_data/'
)
NUM_OBJECTS = 3_688  # names in the full list; the 847 of the benchmark are among them
SHORT_SIDE = 512

CLASSES = load_benchmark('ade847')


def label_sets(split: str) -> tuple[LabelSet]:
    """A-847: the ids are the positions in the benchmark's list, everything else is ignored."""
    table = np.full(NUM_OBJECTS + 1, 65_535)
    table[[entry.raw_id for entry in CLASSES]] = np.arange(len(CLASSES))
    names = tuple(entry.name for entry in CLASSES)
    return (LabelSet('A-847', f'annotations_847/{split}', table, names, ignored=65_535),)


def shrunk_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Size (height, width) with the shorter side shrunk to ``short_side``; 0 keeps the size."""
    shorter, longer = sorted(size)
    if not 0 < short_side < shorter:
        return size
    longer = round(longer / shorter * short_side)
    return (short_side, longer) if size[0] <= size[1] else (longer, short_side)


def read_object_ids(path: Path) -> np.ndarray:
    """Read the ids of the full list from a ``_seg.png``.

    Its red and green encode the class of the object (0: none), its blue the instance.

    Returns:
        (height, width), uint16.

    Raises:
        ESCNetError: If the file is damaged or not an RGB image.
    """
    with open_image(path, 'Label map') as image:
        mode, pixels = image.mode, np.asarray(image)
    if mode != 'RGB':
        raise ESCNetError(
            f'Label map {path} is of Pillow mode {mode!r}: a _seg.png of ADE20K-full is RGB, so '
            'this one belongs to another edition of ADE20K.'
        )
    pixels = pixels.astype(np.uint16)
    return pixels[..., 0] // 10 * 256 + pixels[..., 1]


def stored_size(path: Path) -> tuple[int, int]:
    """Size (height, width) of a photograph as its label map has it: EXIF tags are ignored."""
    with open_image(path) as image:
        return image.height, image.width


def read(job: Job, *, short_side: int) -> np.ndarray:
    """Read the ids of the full list of a job, at the size of its image in OUT.

    Raises:
        ESCNetError: If the file cannot be read, or its photograph has another size.
    """
    ids = read_object_ids(job.raw_label)
    photograph = stored_size(job.raw_image)
    if ids.shape != photograph:
        raise ESCNetError(
            f'Label map {job.raw_label} is {ids.shape[1]}x{ids.shape[0]} pixels but its image '
            f'{job.raw_image} is {photograph[1]}x{photograph[0]}: unpack both again.'
        )
    height, width = shrunk_size(ids.shape, short_side)
    return cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)


def put_image(job: Job, *, short_side: int, link: str) -> None:
    """Put an image in place, shrunk if necessary; keep a complete one of the same photograph.

    A shrunk one has the digest of its photograph as comment.

    Raises:
        ESCNetError: If the photograph is damaged.
    """
    size = stored_size(job.raw_image)
    height, width = shrunk_size(size, short_side)
    if (height, width) == size:
        if job.image.is_file() and not is_whole(job.image, size):
            job.image.unlink()  # of a run with another --short-side
        return place(job, link=link)
    digest = sha256(job.raw_image)
    if is_whole(job.image, (height, width), comment=digest):
        return None
    with open_image(job.raw_image) as image:
        pixels = np.asarray(image if image.mode == 'L' else image.convert('RGB'))
    buffer = io.BytesIO()
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    Image.fromarray(pixels).save(buffer, 'JPEG', comment=digest)
    return write_file(job.image, buffer.getvalue())


def is_whole(path: Path, size: tuple[int, int], comment: str | None = None) -> bool:
    """Whether an image exists, has that size (height, width) and comment, and is not cut short."""
    try:
        with open_image(path) as image:
            image.load()
            found = image.info.get('comment', b'').decode(errors='replace')
            return (image.height, image.width) == size and comment in (None, found)
    except ESCNetError:
        return False


def plan(args: argparse.Namespace, split: str) -> list[Job]:
    """Check the raw files of a split and list the jobs.

    Raises:
        ESCNetError: If something is missing.
    """
    raw = find_folder(args.raw, inside=['images/ADE'], what='ADE20K_2021_17_01', remedy=DOWNLOAD)
    folder = raw / 'images' / 'ADE' / split
    raw_labels: dict[str, Path] = {}
    for path in sorted(folder.rglob(f'*{SUFFIX}')):
        stem = path.name.removesuffix(SUFFIX)
        if stem in raw_labels:
            raise ESCNetError(
                f'{path} and {raw_labels[stem]} have the same name: unpack '
                'ADE20K_2021_17_01.zip into a new folder.'
            )
        if not stem.startswith('.'):  # of macOS
            raw_labels[stem] = path
    images = {stem: path.with_name(f'{stem}.jpg') for stem, path in raw_labels.items()}
    without_image = [stem for stem, path in images.items() if not path.is_file()]
    if not args.allow_partial:
        check_count(
            what=f'label maps *{SUFFIX} of {split}',
            folder=folder,
            found=len(raw_labels),
            expected=NUM_IMAGES[split],
            remedy=f'unpack ADE20K_2021_17_01.zip again ({DOWNLOAD})',
        )
        if without_image:
            missing = first_few((images[stem].name for stem in without_image), 3)
            raise ESCNetError(
                f'{len(without_image)} of {len(raw_labels)} label maps in {folder} have no image '
                f'beside them ({missing}): unpack ADE20K_2021_17_01.zip again.'
            )
    print(
        f'{split}: {len(raw_labels)} of {NUM_IMAGES[split]} label maps'
        + (f', {len(without_image)} without image left out' if without_image else '')
    )
    jobs = [
        Job(
            raw_label=raw_labels[stem],
            raw_image=images[stem],
            image=args.out / 'images_847' / split / f'{stem}.jpg',
            labels=(args.out / 'annotations_847' / split / f'{stem}.png',),
        )
        for stem in sorted(raw_labels.keys() - set(without_image))
    ]
    if not jobs:
        raise ESCNetError(
            f'{folder} holds no label map *{SUFFIX} with its image *.jpg: get it {DOWNLOAD}.'
        )
    return jobs


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add_arguments(
        parser,
        out='data/ADE20K_2021_17_01',
        splits=list(NUM_IMAGES),
        default=['validation'],
    )
    parser.add_argument(
        '--short-side',
        type=int,
        default=SHORT_SIDE,
        help='pixels to shrink to, 0 to keep the size (default: %(default)s, as published)',
    )
    args = parser.parse_args(argv)
    if args.short_side < 0:
        parser.error('--short-side must be a number of pixels, or 0')
    return args


def main(argv: list[str] | None = None) -> int:
    """Convert the splits asked for.

    Returns:
        The exit status: 1 if a file failed.
    """
    args = parse_args(argv)
    plans = {split: plan(args, split) for split in args.splits}
    return run_splits(
        plans,
        args,
        name='A-847',
        sets=label_sets,
        read=partial(read, short_side=args.short_side),
        put_image=partial(put_image, short_side=args.short_side),
        image_list='annotations_847',
    )


if __name__ == '__main__':
    run_tool(main, interrupted='the same command resumes where this one stopped')
