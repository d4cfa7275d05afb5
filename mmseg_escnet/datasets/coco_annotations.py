"""Read and check annotations in COCO's JSON (instances_*.json)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np

from ..errors import ESCNetError, first_few
from ..image_files import is_image

_FARTHEST = 10  # sides of the image; coordinates beyond are those of another one
_OVERSHOOT = 1  # pixels outside that rounding explains
_FLAT = 1e-6  # square pixels


class AnnotatedImage(NamedTuple):
    """A record of ``images`` with its annotations.

    Attributes:
        id: Its id.
        name: The file, below the folder of images.
        size: (height, width) of the record; None if it has none.
        annotations: Those that name its id, as in the file.
    """

    id: object
    name: PurePosixPath
    size: tuple | None
    annotations: list[dict]


class Segment(NamedTuple):
    """What is drawn of an annotation.

    Attributes:
        annotation: Id of the annotation.
        category: Id of its category.
        area: Square pixels.
        shape: Polygons [x, y, x, y, ...], or run lengths as in the file.
    """

    annotation: object
    category: object
    area: float
    shape: list[list[float]] | dict


class Segments(NamedTuple):
    """The segments of an image, and the ids of annotations that are not drawn as they are.

    Attributes:
        drawn: The segments, the largest first.
        empty: Ids of annotations without an area inside the image.
        clipped: Ids of annotations that extend beyond it.
    """

    drawn: list[Segment]
    empty: list[object]
    clipped: list[object]


def read_annotations(path: Path) -> tuple[dict[object, str], list[AnnotatedImage]]:
    """Read a file of annotations.

    Returns:
        Category id -> name, in the order of the ids; and the images.

    Raises:
        ESCNetError: If it cannot be read or has another format, an id or file occurs twice, or an
            annotation belongs to no image or category.
    """
    try:
        content = json.loads(path.read_bytes())
        records, categories = content['images'], content['categories']
        annotations = content['annotations']
        for key in ('images', 'annotations', 'categories'):
            if not isinstance(content[key], list) or not content[key]:
                raise KeyError(key)
        _check_unique(path, 'images', records)
        _check_unique(path, 'categories', categories)
        of_image: dict[object, list[dict]] = {record['id']: [] for record in records}
        names = {category['id']: category.get('name') for category in categories}
        for annotation in annotations:
            if annotation['category_id'] not in names:
                raise _orphan(path, 'of category', annotation['category_id'], 'categories')
            if annotation['image_id'] not in of_image:
                raise _orphan(path, 'of the image', annotation['image_id'], 'images')
            of_image[annotation['image_id']].append(annotation)
        images = [
            AnnotatedImage(
                id=record['id'],
                name=_file_name(path, record['file_name']),
                size=_size(record),
                annotations=of_image[record['id']],
            )
            for record in records
        ]
        names = {category: names[category] for category in sorted(names)}
    except ESCNetError:
        raise
    except OSError as error:
        raise ESCNetError(
            f'{path} cannot be read ({error.strerror or error}): check the path.'
        ) from error
    except ValueError as error:  # also of the encoding
        raise ESCNetError(f'{path} is not valid JSON ({error}): export it again.') from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ESCNetError(
            f"{path} is not in the format of COCO's instances_*.json ({error} is missing or of the "
            'wrong type): export it in that format.'
        ) from error
    _check_files(path, images)
    return names, images


def _check_unique(path: Path, what: str, records: Sequence[Mapping]) -> None:
    counts = Counter(record['id'] for record in records)
    if several := [repr(key) for key, count in counts.items() if count > 1]:
        raise ESCNetError(
            f'{path} has several {what} with the id {first_few(several, 3)}, so it is unclear '
            'which of them an annotation means: give each its own id.'
        )


def _orphan(path: Path, what: str, key: object, where: str) -> ESCNetError:
    return ESCNetError(
        f'{path} has annotations {what} {key!r}, which is not among its {where}: export it again.'
    )


def _file_name(path: Path, given: object) -> PurePosixPath:
    name = PurePosixPath(str(given).replace('\\', '/'))
    if name.is_absolute() or '..' in name.parts or not name.name:
        raise ESCNetError(
            f'{path} names the image {str(name)!r}, which lies outside of the folder of images: '
            'give names below that folder.'
        )
    if not is_image(name.name):
        raise ESCNetError(
            f'{path} names the image {str(name)!r}, which data sets do not find: let its name end '
            'in .jpg, .png or the like, and not begin with a dot, in the folder and in the file.'
        )
    return name


def _size(record: Mapping) -> tuple | None:
    size = record.get('height'), record.get('width')
    return None if size == (None, None) else size


def _check_files(path: Path, images: Iterable[AnnotatedImage]) -> None:
    """Two images need two label maps, which are named after them without their suffix."""
    seen: dict[PurePosixPath, AnnotatedImage] = {}
    for image in images:
        other = seen.setdefault(image.name.with_suffix('.png'), image)
        if other is not image:
            raise ESCNetError(
                f'{path} lists {str(other.name)!r} (id {other.id!r}) and {str(image.name)!r} (id '
                f'{image.id!r}), which would share one label map: merge the two records if they '
                'are one image, otherwise rename one of the files.'
            )


def segments(path: Path, image: AnnotatedImage, size: tuple[int, int]) -> Segments:
    """Check the segmentations of an image.

    Args:
        path: The file of annotations, for messages.
        image: The image with its annotations.
        size: (height, width) of the image file.

    Raises:
        ESCNetError: If one is invalid; it is named by its id.
    """
    found = Segments([], [], [])
    for position, annotation in enumerate(image.annotations):
        key = annotation.get('id', f'number {position} of the image {image.id!r}')
        shape = annotation.get('segmentation')
        try:
            if isinstance(shape, dict):
                area, low, high = _area_of_run_lengths(shape), 0, 0
            else:
                shape, area, low, high = _polygons(shape or [], size)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ESCNetError(
                f'The segmentation of annotation {key!r} ({image.name}) in {path} is invalid '
                f'({_reason(error)}): correct it, or remove the annotation.'
            ) from error
        if not shape or (isinstance(shape, dict) and area == 0):
            found.empty.append(key)
            continue
        if low < -_OVERSHOOT or high > _OVERSHOOT:
            found.clipped.append(key)
        found.drawn.append(Segment(key, annotation['category_id'], area, shape))
    found.drawn.sort(key=lambda segment: segment.area, reverse=True)
    return found


def _reason(error: Exception) -> str:
    return f'{error} is missing' if isinstance(error, KeyError) else str(error)


def _area_of_run_lengths(shape: dict) -> float:
    counts, (height, width) = shape['counts'], shape['size']
    if not counts:
        return 0.0
    lengths = np.asarray(_decompressed(counts) if isinstance(counts, str) else counts)
    if lengths.ndim != 1 or lengths.dtype.kind not in 'iu' or lengths.min() < 0:
        raise ValueError('run lengths must be integers of at least 0')
    if lengths.sum() != height * width:
        raise ValueError(f'run lengths of {lengths.sum()} pixels for {width}x{height}')
    return float(lengths[1::2].sum())


def _decompressed(text: str) -> list[int]:
    """The run lengths in pycocotools' string, which it decodes without checking their sum."""
    lengths, value, shift = [], 0, 0
    for bits in (ord(char) - 48 for char in text):
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last five bits, of which one is the sign
            value -= (bits >> 4 & 1) << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths


def _polygons(shape: list, size: tuple[int, int]) -> tuple[list[list[float]], float, float, float]:
    """The polygons with an area in the image, their area, and how far they extend beyond it.

    Returns:
        Polygons, area in square pixels, and pixels below 0 (negative) and above the size.
    """
    polygons, area, low, high = [], 0.0, 0.0, 0.0
    limit = np.array(size[::-1])
    if not isinstance(shape, list) or not all(isinstance(polygon, list) for polygon in shape):
        raise ValueError('it must be a list of polygons [x, y, x, y, ...], or run lengths')
    if len(shape) > 2 and all(len(polygon) == 2 for polygon in shape):
        raise ValueError('it is a list of points, not of polygons [x, y, x, y, ...]')
    for polygon in shape:
        values = np.asarray(polygon, np.float64)
        if values.ndim != 1:
            raise ValueError('a polygon must be a list of numbers x, y, x, y, ...')
        if len(values) % 2:
            raise ValueError(f'a polygon has {len(values)} coordinates, an odd number')
        if not np.isfinite(values).all():
            raise ValueError('a coordinate is not a number')
        if len(values) < 6:
            continue
        points = values.reshape(-1, 2)
        first, last = points.min(axis=0), points.max(axis=0)
        if max(-first.min(), last.max()) > _FARTHEST * max(size):
            raise ValueError(
                f'a coordinate lies far outside the image of {size[1]}x{size[0]} pixels'
            )
        if _is_flat(points) or (last <= 0).any() or (first >= limit).any():
            continue
        polygons.append(values.tolist())
        area += cv2.contourArea(points.astype(np.float32))
        low, high = min(low, first.min()), max(high, (last - limit).max())
    return polygons, area, low, high


def _is_flat(points: np.ndarray) -> bool:
    """Whether all points (P, 2) lie on a line."""
    away = points[1:] - points[0]
    farthest = away[np.abs(away).sum(axis=1).argmax()]
    cross = away[:, 0] * farthest[1] - away[:, 1] * farthest[0]
    return not (np.abs(cross) > _FLAT).any()
