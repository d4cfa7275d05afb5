"""What the files of a prepared data set contain, and what is wrong with them.

Shapes: H x W pixels, N classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS

from ..colors import BACKGROUND
from ..errors import ESCNetError
from ..vocabulary import palette_of, split_synonyms
from ..words import folded
from .benchmark_vocabularies import PUBLISHED_IMAGES
from .parallel import parallel_map
from .transforms import LoadImage, LoadLabelMap
from .transforms.load_label_map import to_class_ids

IGNORED, OUTSIDE = -1, -2  # in place of a class id: pixels without a class, ids out of range
_NUM_FILE_IDS = 65_536
_MMSEG_DATASETS = {  # MMSegmentation's own classes of published data sets
    'ADE20KDataset': 'ade20k',
    'COCOStuffDataset': 'coco_stuff',
    'PascalContextDataset': 'pascal_context',
    'PascalContextDataset59': 'pascal_context',
    'PascalVOCDataset': 'pascal_voc',
}


class Reading(NamedTuple):
    """Contents of the files of one image.

    Attributes:
        image: The image file.
        label: The label map.
        image_size: Of the image, (height, width).
        label_size: Of the label map, (height, width).
        bits: Bits per pixel of the label map, 8 or 16.
        ids: (k,) the ids in the label map, ascending.
        pixels: (k,) number of pixels of each id.
    """

    image: str
    label: str
    image_size: tuple[int, int]
    label_size: tuple[int, int]
    bits: int
    ids: np.ndarray
    pixels: np.ndarray


@dataclass(frozen=True)
class LabelIds:
    """What the ids in the label files of a data set mean.

    Attributes:
        names: The N class names.
        ignore_index: Id of pixels without a class.
        reduce_zero_label: Whether id 0 means no class and id 1 is the first class.
        label_map: Class index in the files -> class id; None if they are the same.
    """

    names: tuple[str, ...]
    ignore_index: int = 255
    reduce_zero_label: bool = False
    label_map: dict[int, int] | None = None

    @property
    def first(self) -> int:
        """The id of the first class in the files."""
        return 1 if self.reduce_zero_label else 0

    @property
    def last(self) -> int:
        """The id of the last class in the files."""
        return self.first + len(self.label_map or self.names) - 1

    @cached_property
    def table(self) -> np.ndarray:
        """(65536,) int64: class id, ``IGNORED`` or ``OUTSIDE`` for each possible id in a file.

        The same mapping as that of :class:`LoadLabelMap`.
        """
        targets = to_class_ids(
            range(_NUM_FILE_IDS), self.ignore_index, self.reduce_zero_label, self.label_map
        )
        outside = np.where(targets >= len(self.names), OUTSIDE, targets)
        return np.where(targets == self.ignore_index, IGNORED, outside)


@dataclass(frozen=True)
class Inspection:
    """Contents of the files of a data set, or of a sample of them.

    Attributes:
        labels: What the ids in the label files mean.
        palette: N colours (R, G, B), of the data set if it defines any.
        load: Reads an image (H, W, 3) uint8 BGR and its label map (H, W) uint8 or uint16, given
            both paths.
        casts_to_bytes: Whether the pipeline loads labels with MMSegmentation's transform, in which
            ids above 255 wrap around.
        total: Number of images of the data set.
        files: (image, label map) of those inspected.
        readings: Contents of those that can be read.
        unreadable: Error messages of the others.
        expected: Published number of images; None if unknown.
        hint: How to make the data set, as a clause; '' if unknown.
        first_words: For each class what the text encoder reads of it by default.
    """

    labels: LabelIds
    palette: Sequence[Sequence[int]]
    load: partial
    casts_to_bytes: bool
    total: int
    files: Sequence[tuple[str, str]]
    readings: Sequence[Reading]
    unreadable: Sequence[str]
    expected: int | None = None
    hint: str = ''
    first_words: Sequence[str] = ()

    @cached_property
    def id_pixels(self) -> np.ndarray:
        """(65536,) int64, pixels of each id in the files."""
        total = np.zeros(_NUM_FILE_IDS, np.int64)
        for reading in self.readings:
            total[reading.ids] += reading.pixels
        return total

    @cached_property
    def class_pixels(self) -> np.ndarray:
        """(N,) int64, pixels of each class."""
        targets, pixels = self.labels.table, np.zeros(len(self.labels.names), np.int64)
        np.add.at(pixels, targets[targets >= 0], self.id_pixels[targets >= 0])
        return pixels

    @cached_property
    def class_images(self) -> np.ndarray:
        """(N,) int64, number of images in which each class occurs."""
        images = np.zeros(len(self.labels.names), np.int64)
        for reading in self.readings:
            targets = self.labels.table[reading.ids]
            images[np.unique(targets[targets >= 0])] += 1
        return images

    @property
    def ignored_pixels(self) -> int:
        """Number of pixels without a class, not counting ids out of range."""
        return int(self.id_pixels[self.labels.table == IGNORED].sum())

    @property
    def image_sizes(self) -> Counter:
        """Number of images of each (height, width)."""
        return Counter(reading.image_size for reading in self.readings)

    @property
    def bits(self) -> set[int]:
        """Bit depths of the label maps."""
        return {reading.bits for reading in self.readings}

    @property
    def matching(self) -> list[Reading]:
        """Readings in which image and label map have the same size."""
        return [reading for reading in self.readings if reading.image_size == reading.label_size]


def build_dataset(cfg: dict) -> BaseDataset:
    """Build a data set without its pipeline.

    Raises:
        ESCNetError: If it cannot be built, because files are missing or its config is wrong.
    """
    try:
        # an empty list cannot be serialized
        return DATASETS.build(dict(cfg, pipeline=[], lazy_init=False, serialize_data=False))
    except ESCNetError:
        raise
    except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
        why = error.args[0] if isinstance(error, KeyError) else str(error)
        raise ESCNetError(
            f'The data set of type {cfg.get("type")} cannot be built '
            f'({why or "one of its files or folders does not exist"}): check data_root, '
            'data_prefix and ann_file, see data/README.md.'
        ) from error


def inspect_dataset(
    dataset: BaseDataset,
    pipeline: Sequence[dict] = (),
    *,
    background_from: int | None = None,
    limit: int | None = None,
    workers: int = 1,
    description: str = 'images',
) -> Inspection:
    """Read the images and label maps of a data set and count the ids.

    Args:
        dataset: A ``BaseSegDataset``.
        pipeline: Its pipeline, whose loading transforms say how files are read.
        background_from: Merge the classes from this index on into one, 'background', as
            ``OpenVocabIoUMetric`` does.
        limit: Number of images to inspect, evenly spaced; None for all.
        workers: Number of processes; 0 or 1 works in this one.
        description: Label of the progress bar.

    Raises:
        ESCNetError: If it has no images, class names or label maps.
    """
    kind, hint = type(dataset).__name__, getattr(dataset, 'prepare_hint', '')
    if not dataset.metainfo.get('classes'):
        raise ESCNetError(f"{kind} has no class names: give metainfo=dict(classes=['...']).")
    if len(dataset) == 0:
        raise ESCNetError(
            f'{kind} has no images in {dataset.data_prefix.get("img_path")}: '
            f'{hint or "check data_root, data_prefix and img_suffix"}.'
        )
    if dataset.get_data_info(0).get('seg_map_path') is None:
        raise ESCNetError(
            f'{kind} has no label maps: give data_prefix=dict(img_path=..., seg_map_path=...), or '
            'leave it out with --phase.'
        )
    steps = {step.get('type'): step for step in pipeline}
    image_step = steps.get('LoadImage', steps.get('LoadImageFromFile', {}))
    label_step = steps.get('LoadLabelMap', steps.get('LoadAnnotations', {}))
    options = image_step.keys() & {'color_type', 'imdecode_backend', 'backend_args'}
    load = partial(
        _load,
        load_image=LoadImage(**{key: image_step[key] for key in options}),
        load_labels=LoadLabelMap(backend_args=label_step.get('backend_args')),
    )
    infos = map(dataset.get_data_info, spread(len(dataset), limit))
    files = [(info['img_path'], info['seg_map_path']) for info in infos]
    outcomes = list(
        parallel_map(partial(_read, load=load), files, workers=workers, description=description)
    )
    labels = _label_ids(dataset, label_step.get('ignore_index'), background_from)
    return Inspection(
        labels=labels,
        palette=_palette(dataset, labels, background_from),
        load=load,
        casts_to_bytes=label_step.get('type') == 'LoadAnnotations',
        total=len(dataset),
        files=files,
        readings=[outcome.result for outcome in outcomes if outcome.error is None],
        unreadable=[outcome.error for outcome in outcomes if outcome.error is not None],
        expected=_published_count(dataset),
        hint=hint,
        first_words=_first_words(dataset.metainfo),
    )


def _load(
    files: tuple[str, str], *, load_image: LoadImage, load_labels: LoadLabelMap
) -> tuple[np.ndarray, np.ndarray]:
    image, label = files
    return load_image.transform(dict(img_path=image))['img'], load_labels.read(label)


def _read(files: tuple[str, str], *, load: partial) -> Reading:
    image, ids = load(files)
    pixels = np.bincount(ids.ravel())
    present = np.flatnonzero(pixels)
    return Reading(*files, image.shape[:2], ids.shape, 8 * ids.itemsize, present, pixels[present])


def _first_words(meta: dict) -> list[str]:
    phrases = meta.get('phrases') or {}
    words = [phrases.get(name) or split_synonyms(name) or (name,) for name in meta['classes']]
    return [folded(own[0]) for own in words]


def _label_ids(
    dataset: BaseDataset, loader_ignore_index: int | None, background_from: int | None
) -> LabelIds:
    names, label_map = dataset.metainfo['classes'], dataset.label_map
    ignore_index = dataset.ignore_index if loader_ignore_index is None else loader_ignore_index
    if background_from is not None:
        label_map = label_map or {i: i for i in range(len(names))}
        label_map = {
            old: new if new == ignore_index else min(new, background_from)
            for old, new in label_map.items()
        }
        names = [*names[:background_from], 'background']
    return LabelIds(tuple(names), ignore_index, bool(dataset.reduce_zero_label), label_map)


def _palette(
    dataset: BaseDataset, labels: LabelIds, background_from: int | None
) -> Sequence[Sequence[int]]:
    # MMSegmentation invents random colours for data sets that define none
    if not (getattr(dataset, 'file_palette', None) or type(dataset).METAINFO.get('palette')):
        return palette_of(labels.names)
    palette = dataset.metainfo['palette']
    return palette if background_from is None else [*palette[:background_from], BACKGROUND]


def spread(count: int, limit: int | None) -> list[int]:
    """Up to ``limit`` of the numbers below ``count``, evenly spaced from the first to the last."""
    if limit is None or limit >= count:
        return list(range(count))
    return np.linspace(0, count - 1, limit).round().astype(int).tolist()


def _published_count(dataset: BaseDataset) -> int | None:
    if dataset._indices is not None:  # a subset on purpose
        return None
    split = dataset.ann_file or dataset.data_prefix.get('img_path') or ''
    split = split.rstrip('/').rsplit('/', 1)[-1].removesuffix('.txt')
    counts = getattr(dataset, 'official_counts', None)
    if counts is None:
        keys = (_MMSEG_DATASETS.get(cls.__name__) for cls in type(dataset).__mro__)
        counts = PUBLISHED_IMAGES.get(next(filter(None, keys), None), {})
    return counts.get(split)
