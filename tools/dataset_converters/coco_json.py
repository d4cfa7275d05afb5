"""Make label maps from annotations in COCO's JSON, for FolderDataset (docs/own_data.md).

    mmseg-escnet convert coco_json instances.json --images IMAGES --out data/mine

ANNOTATIONS has "images", "annotations" (polygons or run lengths) and "categories", like COCO's
instances_*.json and the exports of annotation tools. It writes

    OUT/images/SPLIT/...          (links to IMAGES)
    OUT/labels/SPLIT/....png      (0, 1, ...: the categories in the order of their ids)
    OUT/names.txt                 (their names; the same for every split)

Where annotations overlap, the smaller one is on top. Pixels without an annotation are ignored
(255, or 65535 with more than 255 classes), or become a class with --background. After an
interruption, run the same command again: it keeps the files that are finished.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from mmseg_escnet.cli import make_parser, run_tool
from mmseg_escnet.datasets.conversion import LabelSet, image_size, place, run
from mmseg_escnet.datasets.parallel import default_workers
from mmseg_escnet.errors import ESCNetError
from mmseg_escnet.files import write_file
from mmseg_escnet.vocabulary import Vocabulary, read_classes

if TYPE_CHECKING:
    from pycocotools.coco import COCO


class AnnotatedImage(NamedTuple):
    """A ``conversion.Job`` with the annotations of its image.

    Attributes:
        raw_label: The file of annotations.
        raw_image: The image.
        image: Where it is put.
        labels: The one label map.
        annotations: (class id, segmentation) in painting order.
        nothing: Id of pixels without an annotation.
    """

    raw_label: Path
    raw_image: Path
    image: Path
    labels: tuple[Path]
    annotations: tuple[tuple[int, list | dict], ...]
    nothing: int


def paint(job: AnnotatedImage) -> np.ndarray:
    """The label map (height, width) of an image.

    Raises:
        ESCNetError: If a segmentation cannot be drawn or is of another size.
    """
    from pycocotools import mask as coco_mask

    height, width = image_size(job.raw_image)
    labels = np.full((height, width), job.nothing, np.int64)
    for class_id, segmentation in job.annotations:
        try:
            lengths = segmentation
            if isinstance(segmentation, list):
                lengths = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
            elif isinstance(segmentation['counts'], list):
                lengths = coco_mask.frPyObjects(segmentation, *segmentation['size'])
            if list(lengths['size']) != [height, width]:
                raise ValueError(f'it is of {lengths["size"][::-1]} pixels')
            labels[coco_mask.decode(lengths).astype(bool)] = class_id
        except Exception as error:  # pycocotools raises anything
            raise ESCNetError(
                f'A segmentation of {job.raw_image.name} ({width}x{height} pixels) in '
                f'{job.raw_label} cannot be drawn ({error}): correct it there.'
            ) from error
    return labels


def read_annotations(path: Path) -> COCO:
    """Read a file of annotations.

    Raises:
        ESCNetError: If it cannot be read or has another format.
    """
    from pycocotools.coco import COCO

    try:
        with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
            coco = COCO(path)
        if not (coco.imgs and coco.anns and coco.cats):
            raise KeyError('images, annotations or categories')
        for image in coco.imgs.values():
            image['file_name']
        for annotation in coco.anns.values():
            annotation['image_id'], annotation['category_id'], annotation['segmentation']
    except OSError as error:
        raise ESCNetError(
            f'{path} cannot be read ({error.strerror or error}): check the path.'
        ) from error
    except json.JSONDecodeError as error:
        raise ESCNetError(f'{path} is not valid JSON ({error}): export it again.') from error
    except (KeyError, TypeError, AssertionError, UnicodeDecodeError, RecursionError) as error:
        raise ESCNetError(
            f"{path} is not in the format of COCO's instances_*.json ({error} is missing or of the "
            'wrong type): export it in that format.'
        ) from error
    return coco


def class_names(coco: COCO, background: str | None) -> tuple[dict[int, int], tuple[str, ...]]:
    """Category id -> class id, and the names of the classes.

    Raises:
        ESCNetError: If a name is missing or duplicate.
    """
    categories = sorted(coco.cats)
    names = [coco.cats[category].get('name') for category in categories]
    if background is not None:
        names.append(background)
    names = Vocabulary.create(names).names
    return {category: index for index, category in enumerate(categories)}, names


def list_jobs(
    coco: COCO, path: Path, images: Path, out: Path, split: str, *, nothing: int, ids: dict
) -> list[AnnotatedImage]:
    """One job for each image of the file.

    Raises:
        ESCNetError: If an image is missing or would leave OUT, or an annotation belongs to none.
    """
    jobs = []
    for image_id, image in coco.imgs.items():
        name = PurePosixPath(str(image['file_name']).replace('\\', '/'))
        if name.is_absolute() or '..' in name.parts or not name.name:
            raise ESCNetError(
                f'{path} names the image {str(name)!r}, which lies outside of {images}: give '
                'names below that folder.'
            )
        if not (images / name).is_file():
            raise ESCNetError(
                f'The image {images / name} of {path} does not exist: give the folder of the '
                'images as --images.'
            )
        annotations = sorted(coco.imgToAnns[image_id], key=_area, reverse=True)
        jobs.append(
            AnnotatedImage(
                raw_label=path,
                raw_image=images / name,
                image=out / 'images' / split / name,
                labels=((out / 'labels' / split / name).with_suffix('.png'),),
                annotations=tuple(
                    (ids[_known(annotation, coco, path)], annotation['segmentation'])
                    for annotation in annotations
                ),
                nothing=nothing,
            )
        )
    if orphans := set(coco.imgToAnns) - set(coco.imgs):
        raise ESCNetError(
            f'{path} has annotations of the image {min(orphans, key=str)!r}, which is not among '
            'its images: export it again.'
        )
    return jobs


def _known(annotation: dict, coco: COCO, path: Path) -> int:
    category = annotation['category_id']
    if category not in coco.cats:
        raise ESCNetError(
            f'{path} has an annotation of category {category!r}, which is not among its '
            'categories: export it again.'
        )
    return category


def _area(annotation: dict) -> float:
    area = annotation.get('area')
    if area is not None:
        return float(area)
    segmentation = annotation['segmentation']
    if isinstance(segmentation, dict):
        counts = segmentation['counts']
        if isinstance(counts, list):
            return float(sum(counts[1::2]))
        from pycocotools.mask import area as area_of

        return float(area_of(segmentation))
    polygons = [np.reshape(polygon, (-1, 2)).astype(np.float32) for polygon in segmentation]
    return sum(map(cv2.contourArea, polygons))


def write_names(path: Path, names: tuple[str, ...]) -> None:
    """Write the file of names, unless it exists.

    Raises:
        ESCNetError: If it exists with other names.
    """
    if path.is_file():
        if tuple(read_classes(path)) != names:
            raise ESCNetError(
                f'{path} exists with other names, but the splits of a data set need the same '
                'categories: choose another --out, or remove the file.'
            )
        return
    write_file(path, ''.join(f'{name}\n' for name in names).encode())


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('annotations', metavar='ANNOTATIONS', type=Path)
    parser.add_argument('--images', type=Path, required=True, help='folder of the images')
    parser.add_argument('--out', type=Path, default=Path('data/mine'), help='default: %(default)s')
    parser.add_argument('--split', default='train', help='train, val, ... (default: %(default)s)')
    parser.add_argument('--background', help='class name for pixels without an annotation')
    parser.add_argument('--workers', type=int, default=default_workers(), help='processes')
    parser.add_argument(
        '--link', choices=('symlink', 'copy'), default='symlink', help='how images get into OUT'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert one file of annotations.

    Returns:
        The exit status: 1 if an image failed.
    """
    args = parse_args(argv)
    if Path(args.split).name != args.split or args.split in ('.', '..'):
        raise ESCNetError(f'--split {args.split!r} must be a plain name such as train.')
    coco = read_annotations(args.annotations)
    ids, names = class_names(coco, args.background)
    ignored = 255 if len(names) <= 255 else 65535
    nothing = ignored if args.background is None else len(names) - 1
    jobs = list_jobs(
        coco, args.annotations, args.images, args.out, args.split, nothing=nothing, ids=ids
    )
    table = np.full(max(ignored, len(names)) + 1, -1)
    table[: len(names)], table[ignored] = np.arange(len(names)), ignored
    labels = LabelSet(args.split, f'labels/{args.split}', table, names, ignored)
    args.out.mkdir(parents=True, exist_ok=True)
    write_names(args.out / 'names.txt', names)
    return run(
        jobs,
        out=args.out,
        read=paint,
        sets=(labels,),
        put_image=partial(place, link=args.link),
        workers=args.workers,
        description=args.split,
    )


if __name__ == '__main__':
    run_tool(main, interrupted='the same command resumes where this one stopped')
