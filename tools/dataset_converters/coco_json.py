"""Make label maps from annotations in COCO's JSON, for FolderDataset (docs/own_data.md).

    mmseg-escnet convert coco_json instances.json --images IMAGES --out data/mine

ANNOTATIONS has "images", "annotations" (polygons or run lengths) and "categories", like COCO's
instances_*.json and the exports of annotation tools. It writes

    OUT/images/SPLIT/...          (links to IMAGES)
    OUT/labels/SPLIT/....png      (0, 1, ...: the categories in the order of their ids)
    OUT/names.txt                 (their names; the same for every split)

Where annotations overlap, the smaller one is on top. Pixels without an annotation are ignored
(255, or 65535 with more than 255 classes), or become a class with --background. Polygons are those
of the upright image, as the EXIF tags of a photograph turn it.

After an interruption, or when annotations were corrected, run the same command again: it makes the
label maps that are missing or whose annotations have changed.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmseg_escnet.class_files import class_line
from mmseg_escnet.cli import make_parser, run_tool
from mmseg_escnet.datasets.coco_annotations import AnnotatedImage, read_annotations, segments
from mmseg_escnet.datasets.conversion import place, run
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
from mmseg_escnet.datasets.parallel import parallel_map
from mmseg_escnet.datasets.raw_images import image_size
from mmseg_escnet.errors import ESCNetError, first_few
from mmseg_escnet.vocabulary import Vocabulary


class PaintJob(NamedTuple):
    """A ``conversion.Job`` with what is painted into its label map.

    Attributes:
        raw_label: The file of annotations.
        raw_image: The image.
        image: Where it is put.
        labels: The one label map.
        shapes: (class id, annotation id, polygons or run lengths) in painting order.
        nothing: Id of pixels without an annotation.
    """

    raw_label: Path
    raw_image: Path
    image: Path
    labels: tuple[Path]
    shapes: tuple[tuple[int, object, list | dict], ...]
    nothing: int


def paint(job: PaintJob) -> np.ndarray:
    """The label map (height, width) of an image.

    Raises:
        ESCNetError: If a segmentation cannot be drawn or is of another size.
    """
    from pycocotools import mask as coco_mask

    height, width = image_size(job.raw_image)
    labels = np.full((height, width), job.nothing, np.int64)
    for class_id, annotation, shape in job.shapes:
        try:
            lengths = shape
            if isinstance(shape, list):
                lengths = coco_mask.merge(coco_mask.frPyObjects(shape, height, width))
            elif isinstance(shape['counts'], list):
                lengths = coco_mask.frPyObjects(shape, *shape['size'])
            if list(lengths['size']) != [height, width]:
                raise ValueError(f'it is of {lengths["size"][::-1]} pixels')
            labels[coco_mask.decode(lengths).astype(bool)] = class_id
        except Exception as error:  # pycocotools raises anything
            raise ESCNetError(
                f'The segmentation of annotation {annotation!r} of {job.raw_image.name} '
                f'({width}x{height} pixels) in {job.raw_label} cannot be drawn ({error}): correct '
                'it there.'
            ) from error
    return labels


def shapes_of(job: PaintJob) -> bytes:
    """What determines the label map of an image."""
    shapes = [(class_id, shape) for class_id, _, shape in job.shapes]
    return json.dumps([job.nothing, shapes]).encode()


def class_lines(categories: dict[object, str], background: str | None) -> tuple[str, ...]:
    """The lines of the file of names: a category is its name, a background may have synonyms.

    Raises:
        ESCNetError: If a name is missing or duplicate.
    """
    names = list(categories.values())
    vocabulary = Vocabulary.create(names, phrases=[[name] for name in names])
    lines = [class_line(name) for name in vocabulary.names]
    if background is not None:
        lines.append(background.strip())
        if '\n' in lines[-1] or lines[-1].startswith('#') or not lines[-1]:
            raise ESCNetError(
                f'--background {background!r} must be a line of names.txt: a class name, in double '
                'quotes if it begins with #.'
            )
    return tuple(lines)


def image_sizes(
    path: Path, folder: Path, images: list[AnnotatedImage], workers: int
) -> list[tuple[int, int] | None]:
    """The size (height, width) of each image; None if it cannot be read.

    Raises:
        ESCNetError: If an image does not exist, or has another size than its record.
    """
    files = [folder / image.name for image in images]
    if missing := [file for file in files if not file.is_file()]:
        raise ESCNetError(
            f'The image {missing[0]} of {path} does not exist'
            + (f', and {len(missing) - 1} others' if missing[1:] else '')
            + ': give the folder of the images as --images.'
        )
    read = parallel_map(image_size, files, workers=workers, description='sizes')
    sizes = [outcome.result for outcome in read]
    different = [
        f'{image.name}: {image.size[1]!r}x{image.size[0]!r} in {path.name}, but {size[1]}x{size[0]}'
        for image, size in zip(images, sizes, strict=True)
        if image.size and size and tuple(image.size) != size
    ]
    if different:
        raise ESCNetError(
            f'{path} gives {len(different)} of {len(images)} images another size than they have in '
            f'{folder} when upright ({first_few(different, 3)}): give the images that were '
            'annotated, or export the annotations for these.'
        )
    return sizes


def list_jobs(
    path: Path,
    images: list[AnnotatedImage],
    sizes: list[tuple[int, int] | None],
    args: argparse.Namespace,
    *,
    ids: dict,
    nothing: int,
) -> list[PaintJob]:
    """One job for each image of the file; prints which annotations are not drawn as they are.

    Raises:
        ESCNetError: If a segmentation is invalid, or none has an area.
    """
    jobs, empty, clipped = [], [], []
    for image, size in zip(images, sizes, strict=True):
        if size is None:  # unreadable, which is reported with the conversion
            image = image._replace(annotations=[])
        found = segments(path, image, size)
        empty += found.empty
        clipped += found.clipped
        target, labels = targets(args.out, args.split, image.name)
        jobs.append(
            PaintJob(
                raw_label=path,
                raw_image=args.images / image.name,
                image=target,
                labels=labels,
                shapes=tuple(
                    (ids[segment.category], segment.annotation, segment.shape)
                    for segment in found.drawn
                ),
                nothing=nothing,
            )
        )
    if all(sizes) and not any(job.shapes for job in jobs):
        raise ESCNetError(
            f'No annotation of {path} has a segmentation with an area: export polygons or masks, '
            'not boxes.'
        )
    for what, keys in (
        ('without an area inside their image, left out', empty),
        ('beyond the edges of their image, clipped', clipped),
    ):
        if keys:
            print(f'annotations {what}: {len(keys)} (id {first_few(map(repr, keys))})')
    return jobs


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('annotations', metavar='ANNOTATIONS', type=Path)
    add_arguments(parser)
    parser.add_argument('--background', help='class for pixels without an annotation')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Convert one file of annotations.

    Returns:
        The exit status: 1 if an image failed.
    """
    args = parse_args(argv)
    check_split(args.split)
    categories, images = read_annotations(args.annotations)
    lines = class_lines(categories, args.background)
    names = vocabulary_of(lines).names
    labels = label_set(args.split, names)
    check_names(args.out, lines)
    sizes = image_sizes(args.annotations, args.images, images, args.workers)
    jobs = list_jobs(
        args.annotations,
        images,
        sizes,
        args,
        ids={category: index for index, category in enumerate(categories)},
        nothing=labels.ignored if args.background is None else len(names) - 1,
    )
    write_names(args.out, lines)
    status = run(
        jobs,
        out=args.out,
        read=paint,
        sets=(labels,),
        put_image=partial(place, link=args.link),
        workers=args.workers,
        description=args.split,
        source=shapes_of,
    )
    report_leftovers(jobs, args.out, args.split)
    return status


if __name__ == '__main__':
    run_tool(main, interrupted='the same command resumes where this one stopped')
