"""Label maps whose classes are colours: reading them, and finding colours of no class.

Shapes: H x W pixels, K colours of classes (or ignored), V other colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ..errors import ESCNetError, Problems
from ..files import SIXTEEN_BIT_MODES, decode_image
from .conversion import Job, raw_content
from .label_sets import LabelSet, is_made_of, made_of
from .parallel import parallel_map
from .raw_images import image_size, open_image

_CODES = 1 << 24  # a colour is 0xRRGGBB
_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA')  # of Pillow
_MOST = 10  # of a kind in a list of problems


class ColorTable(NamedTuple):
    """Which class a colour is.

    Attributes:
        colors: (K, 3) int64, red, green, blue in 0..255; no two are equal.
        ids: (K,) int64, the class ids, or ``ignored``.
        names: K names for messages.
        ignored: Id of pixels without a class.
        tolerance: Most that any of red, green and blue may differ from the nearest colour.
    """

    colors: np.ndarray
    ids: np.ndarray
    names: tuple[str, ...]
    ignored: int
    tolerance: int


class ColorIds(NamedTuple):
    """A label map.

    Attributes:
        ids: (H, W) int64; ``ignored`` where the colour is not within the tolerance.
        others: (V, 3) int64, the colours that are not in the table: colour, pixels, and distance
            to the nearest one that is.
    """

    ids: np.ndarray
    others: np.ndarray


def read_colors(job: Job, table: ColorTable) -> ColorIds:
    """Read a label map given in colours: RGB, palette, grey, or opaque RGBA, of 8 bits.

    Raises:
        ESCNetError: If it cannot be read, is of another kind, or differs in size from its image as
            that is loaded: rotated by its EXIF orientation.
    """
    path = job.raw_label
    with open_image(path, 'Label map') as image:
        if ';16' in str(image.tile) or image.mode in SIXTEEN_BIT_MODES:
            raise ESCNetError(f'Label map {path} has 16 bits per channel: save its colours with 8.')
        if image.mode not in _MODES:
            raise ESCNetError(f'Label map {path} is of Pillow mode {image.mode!r}: save it as RGB.')
        if 'A' in image.mode or 'transparency' in image.info:
            alpha = np.asarray(image.convert('RGBA').getchannel('A'))
            if transparent := np.count_nonzero(alpha < 255):
                raise ESCNetError(
                    f'Label map {path} has {transparent} pixels that are transparent, so their '
                    'colour is unclear: save it without an alpha channel.'
                )
    pixels = decode_image(path.read_bytes(), f'Label map {path}')
    size, (height, width) = pixels.shape[:2], image_size(job.raw_image)
    if size != (height, width):
        why = 'label maps must be drawn on the image as it is'
        if size == (width, height):
            why = 'turn it, or, if the image is turned by its EXIF orientation alone, remove that'
        raise ESCNetError(
            f'Label map {path} is {size[1]}x{size[0]} pixels but its image {job.raw_image} is '
            f'{width}x{height} when upright: {why}.'
        )
    blue, green, red = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return _to_ids(red << 16 | green << 8 | blue, table)


def _to_ids(codes: np.ndarray, table: ColorTable) -> ColorIds:
    known = table.colors @ (1 << 16, 1 << 8, 1)
    order = np.argsort(known)
    places = np.searchsorted(known, codes, sorter=order)
    rows = order[np.minimum(places, len(known) - 1)]
    ids, is_other = table.ids[rows], known[rows] != codes
    values, inverse, pixels = np.unique(codes[is_other], return_inverse=True, return_counts=True)
    nearest, distances = nearest_rows(values, table.colors)
    near_ids = np.append(table.ids, table.ignored)[nearest]
    near_ids[distances > table.tolerance] = table.ignored
    ids[is_other] = near_ids[inverse]
    return ColorIds(ids, np.stack([values, pixels, distances], axis=1))


def nearest_rows(values: np.ndarray, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest colours by the largest difference of a channel (ours).

    Args:
        values: (V,), 0xRRGGBB.
        colors: (K, 3).

    Returns:
        (V,) positions in ``colors``, K where several are equally near; and (V,) distances.
    """
    channels = values[:, None] >> np.array([16, 8, 0]) & 255
    rows, distances = np.full(len(values), len(colors)), np.full(len(values), 256)
    for row, color in enumerate(colors):
        distance = np.abs(channels - color).max(axis=1)
        rows[distance == distances] = len(colors)
        rows[distance < distances] = row
        distances = np.minimum(distances, distance)
    return rows, distances


def read_ids(job: Job, table: ColorTable) -> np.ndarray:
    """The class ids (H, W) of a job, which :func:`check_colors` has checked."""
    return read_colors(job, table).ids


def made_from(job: Job, table: ColorTable) -> bytes:
    """What determines the label map of a job."""
    numbers = [*table.colors.ravel(), *table.ids, table.tolerance]
    return np.array(numbers, np.int64).tobytes() + raw_content(job)


def _others(job: Job, table: ColorTable, labels: LabelSet) -> np.ndarray:
    """``ColorIds.others`` of a job, none if its label map is made already."""
    note = made_of(made_from(job, table), image_size(job.raw_image), labels)
    if is_made_of(job.labels[0], note):
        return np.zeros((0, 3), np.int64)
    return read_colors(job, table).others


def check_colors(jobs: Sequence[Job], table: ColorTable, labels: LabelSet, workers: int) -> None:
    """Check the label maps that are to be made, and print how many pixels need the tolerance.

    Args:
        jobs: The label maps.
        table: Which class a colour is.
        labels: A label set of the jobs.
        workers: Number of processes.

    Raises:
        ESCNetError: If label maps cannot be read, or have colours of no class; all are named.
    """
    pixels, maps, first = (np.zeros(_CODES, np.int64) for _ in range(3))
    errors, near_pixels, near_maps, near_distance, unknown_maps = [], 0, 0, 0, 0
    work = partial(_others, table=table, labels=labels)
    outcomes = parallel_map(work, jobs, workers=workers, description='colours')
    for number, outcome in enumerate(outcomes):
        if outcome.error is not None:
            errors.append(outcome.error)
            continue
        is_near = outcome.result[:, 2] <= table.tolerance
        near, (values, counts, _) = outcome.result[is_near], outcome.result[~is_near].T
        near_pixels += near[:, 1].sum()
        near_maps += len(near) > 0
        near_distance = max(near_distance, near[:, 2].max(initial=0))
        first[values[maps[values] == 0]] = number
        pixels[values] += counts
        maps[values] += 1
        unknown_maps += len(values) > 0
    problems = Problems()
    if len(errors) > _MOST:
        errors[_MOST:] = [f'{len(errors) - _MOST} more label maps cannot be used either.']
    unknown = np.flatnonzero(maps)
    if len(unknown):
        errors.append(
            f'{unknown_maps} of {len(jobs)} label maps have {len(unknown)} colours of no class: '
            'add them to the file of classes, --ignore them, or, if they come from lossy '
            'compression or smoothed edges, let --tolerance N take the nearest class within N.'
        )
    most = unknown[np.argsort(-pixels[unknown], kind='stable')][:_MOST]
    names = [*map(repr, table.names), 'that of several classes']
    for value, row, distance in zip(most, *nearest_rows(most, table.colors), strict=True):
        errors.append(
            f'#{value:06x} has {pixels[value]} pixels in {maps[value]} label maps, first in '
            f'{jobs[first[value]].raw_label}; the nearest colour, {names[row]}, is {distance} away.'
        )
    if len(unknown) > _MOST:
        errors.append(f'{len(unknown) - _MOST} more colours have fewer pixels each.')
    for error in errors:
        with problems:
            raise ESCNetError(error)
    problems.raise_all()
    if near_pixels:
        print(
            f'{near_pixels} pixels in {near_maps} label maps have other colours and the nearest '
            f'class, up to {near_distance} away'
        )
