"""Looking through a prepared data set: what is in its files, and what is wrong with them.

Shapes: H x W pixels, N classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from mmengine import fileio
from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS

from ..errors import ESCNetError
from ..files import decode_label_map
from .benchmark_vocabularies import PUBLISHED_IMAGES
from .parallel import parallel_map
from .transforms import LoadImage

IGNORED, OUTSIDE = -1, -2  # what stands for no class in a map of class ids
NUM_FILE_IDS = 65536

_OF_MMSEG = {  # MMSegmentation's own classes of published data sets
    'ADE20KDataset': 'ade20k',
    'COCOStuffDataset': 'coco_stuff',
    'PascalContextDataset': 'pascal_context',
    'PascalContextDataset59': 'pascal_context',
    'PascalVOCDataset': 'pascal_voc',
}
_IMAGE_LOADERS = ('LoadImage', 'LoadImageFromFile')
_LABEL_LOADERS = ('LoadLabelMap', 'LoadAnnotations')
_IMAGE_LOADER_OPTIONS = ('color_type', 'imdecode_backend', 'backend_args')


class Sample(NamedTuple):
    """The files of one image, and its place in the data set."""

    number: int
    image: str
    label: str


class Loading(NamedTuple):
    """How the pipeline of a data set reads files.

    Attributes:
        image: Arguments of :class:`LoadImage`.
        label_backend_args: Arguments of the MMEngine file back end for label maps.
        ignore_index: The label loader's own ignore index; None if it follows the data set.
        casts_to_bytes: Whether the label loader is MMSegmentation's, which wraps wide ids around.
    """

    image: dict
    label_backend_args: dict | None = None
    ignore_index: int | None = None
    casts_to_bytes: bool = False


class Reading(NamedTuple):
    """What the files of one image hold.

    Attributes:
        image_size: Of the image, (height, width).
        label_size: Of the label map, (height, width).
        bits: Bits of a pixel of the label map, 8 or 16.
        ids: (k,) int64, the ids in the label map, ascending.
        pixels: (k,) int64, how many pixels have each.
    """

    image_size: tuple[int, int]
    label_size: tuple[int, int]
    bits: int
    ids: np.ndarray
    pixels: np.ndarray


@dataclass(frozen=True)
class LabelIds:
    """What the ids in the label files of a data set stand for.

    Attributes:
        names: The N class names.
        ignore_index: Id of pixels without a class.
        reduce_zero_label: Whether id 0 stands for no class and id 1 for the first one.
        label_map: Place of a class among those of the files -> class id; None if they are the
            same.
    """

    names: tuple[str, ...]
    ignore_index: int = 255
    reduce_zero_label: bool = False
    label_map: dict[int, int] | None = None

    @property
    def first(self) -> int:
        """The id of the files' first class."""
        return 1 if self.reduce_zero_label else 0

    @property
    def last(self) -> int:
        """The id of the files' last class."""
        return self.first + len(self.label_map or self.names) - 1

    def make_table(self) -> np.ndarray:
        """Read every possible id of a file as :class:`LoadLabelMap` does.

        Returns:
            (65536,) int64: class id, ``IGNORED`` or ``OUTSIDE``.
        """
        file_ids = np.arange(NUM_FILE_IDS)
        targets = file_ids - self.first
        for position, class_id in (self.label_map or {}).items():
            targets[position + self.first] = class_id
        ignored = (file_ids == self.ignore_index) | (file_ids < self.first)
        ignored |= targets == self.ignore_index
        outside = (targets < 0) | (targets >= len(self.names))
        return np.where(ignored, IGNORED, np.where(outside, OUTSIDE, targets))


@dataclass
class Inspection:
    """What is in the files of a data set, or of a part of it.

    Attributes:
        labels: What the ids in the label files stand for.
        loading: How the pipeline reads files.
        total: Number of images of the data set.
        samples: Those looked at.
        expected: Published number of images; None if not known.
        hint: How the data set is made, as a clause; '' if not known.
        id_pixels: (65536,) int64, pixels with each id of the files.
        class_pixels: (N,) int64, pixels of each class.
        class_images: (N,) int64, images in which each class occurs.
        image_sizes: Number of images of each (height, width).
        bits: Number of label maps of 8 and of 16 bits.
        matching: Samples that were read, and whose label map is as large as the image.
        unreadable, outside, mismatched, unlabelled: (number of the sample, text) of the files
            that cannot be read, that hold ids of no class, whose size is not the image's, and
            in which every pixel is ignored.
        turned: How many of the mismatched have height and width exchanged.
    """

    labels: LabelIds
    loading: Loading
    total: int
    samples: Sequence[Sample]
    expected: int | None = None
    hint: str = ''
    id_pixels: np.ndarray = field(init=False)
    class_pixels: np.ndarray = field(init=False)
    class_images: np.ndarray = field(init=False)
    image_sizes: Counter = field(default_factory=Counter)
    bits: Counter = field(default_factory=Counter)
    matching: list[Sample] = field(default_factory=list)
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    outside: list[tuple[int, str]] = field(default_factory=list)
    mismatched: list[tuple[int, str]] = field(default_factory=list)
    unlabelled: list[tuple[int, str]] = field(default_factory=list)
    turned: int = 0

    def __post_init__(self) -> None:
        self.id_pixels = np.zeros(NUM_FILE_IDS, np.int64)
        self.class_pixels = np.zeros(len(self.labels.names), np.int64)
        self.class_images = np.zeros(len(self.labels.names), np.int64)

    @property
    def ignored_pixels(self) -> int:
        """Pixels that stand for no class on purpose."""
        return int(self.id_pixels[self.labels.make_table() == IGNORED].sum())

    def add(self, sample: Sample, reading: Reading, table: np.ndarray) -> None:
        """Count the files of one image.

        Args:
            sample: The files.
            reading: What they hold.
            table: Of ``labels.make_table()``.
        """
        self.image_sizes[reading.image_size] += 1
        self.bits[reading.bits] += 1
        self.id_pixels[reading.ids] += reading.pixels
        targets = table[reading.ids]
        known = targets >= 0
        np.add.at(self.class_pixels, targets[known], reading.pixels[known])
        self.class_images[np.unique(targets[known])] += 1
        if (targets == OUTSIDE).any():
            self.outside.append(
                (sample.number, f'{sample.label} ({join_ids(reading.ids[targets == OUTSIDE])})')
            )
        if (targets == IGNORED).all():
            self.unlabelled.append((sample.number, sample.label))
        if reading.image_size == reading.label_size:
            self.matching.append(sample)
        else:
            self.turned += reading.image_size == reading.label_size[::-1]
            sizes = [f'{width}x{height}' for height, width in (reading.label_size, reading[0])]
            self.mismatched.append(
                (sample.number, f'{sample.label} ({sizes[0]}, image {sizes[1]})')
            )


def build_dataset(cfg: dict) -> BaseDataset:
    """Build a data set without its pipeline.

    Raises:
        ESCNetError: If it cannot be built: files are missing, or it is not described right.
    """
    kind = cfg.get('type')
    try:
        # an empty list cannot be serialized
        return DATASETS.build(dict(cfg, pipeline=[], lazy_init=False, serialize_data=False))
    except ESCNetError:
        raise
    except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
        why = error.args[0] if isinstance(error, KeyError) else str(error)
        raise ESCNetError(
            f'The data set of type {kind} cannot be built '
            f'({why or "a file or folder of it does not exist"}): check data_root, data_prefix '
            'and ann_file, see data/README.md.'
        ) from error


def loading_of(pipeline: Sequence[dict]) -> Loading:
    """Read off a pipeline how it reads files."""
    image = next((step for step in pipeline if step.get('type') in _IMAGE_LOADERS), {})
    label = next((step for step in pipeline if step.get('type') in _LABEL_LOADERS), {})
    return Loading(
        image={key: image[key] for key in _IMAGE_LOADER_OPTIONS if key in image},
        label_backend_args=label.get('backend_args'),
        ignore_index=label.get('ignore_index'),
        casts_to_bytes=label.get('type') == 'LoadAnnotations',
    )


def inspect_dataset(
    dataset: BaseDataset,
    pipeline: Sequence[dict] = (),
    *,
    background_from: int | None = None,
    limit: int | None = None,
    workers: int = 1,
    description: str = 'images',
) -> Inspection:
    """Read the images and label maps of a data set and count what is in them.

    Args:
        dataset: A ``BaseSegDataset``.
        pipeline: Its pipeline, for how files are read.
        background_from: Class from which on all are counted as one, the background, as
            ``OpenVocabIoUMetric`` does; None counts each by itself.
        limit: Number of images to look at, evenly spaced; None for all.
        workers: Number of processes; 0 or 1 works in this one.
        description: Stands before the progress bar.

    Raises:
        ESCNetError: If it holds no image, or does not say its class names or label maps.
    """
    kind, loading = type(dataset).__name__, loading_of(pipeline)
    if not dataset.metainfo.get('classes'):
        raise ESCNetError(f"{kind} has no class names: give metainfo=dict(classes=['...']).")
    if len(dataset) == 0:
        raise ESCNetError(
            f'{kind} holds no image in {dataset.data_prefix.get("img_path")}: '
            + getattr(dataset, 'prepare_hint', 'check data_root, data_prefix and img_suffix')
            + '.'
        )
    if dataset.get_data_info(0).get('seg_map_path') is None:
        raise ESCNetError(
            f'{kind} has no label maps: give data_prefix=dict(img_path=..., seg_map_path=...), or '
            'leave it out with --phase.'
        )
    inspection = Inspection(
        labels=_label_ids_of(dataset, loading, background_from),
        loading=loading,
        total=len(dataset),
        samples=_choose_samples(dataset, limit),
        expected=_official_count(dataset),
        hint=getattr(dataset, 'prepare_hint', ''),
    )
    table = inspection.labels.make_table()
    work = partial(read_sample, loading=loading)
    for outcome in parallel_map(work, inspection.samples, workers=workers, description=description):
        if outcome.error is not None:
            inspection.unreadable.append((outcome.item.number, outcome.error))
        else:
            inspection.add(outcome.item, outcome.result, table)
    # processes finish in any order
    for files in ('matching', 'unreadable', 'outside', 'mismatched', 'unlabelled'):
        getattr(inspection, files).sort()
    return inspection


def _label_ids_of(dataset: BaseDataset, loading: Loading, background_from: int | None) -> LabelIds:
    own, names, label_map = loading.ignore_index, dataset.metainfo['classes'], dataset.label_map
    ignore_index = dataset.ignore_index if own is None else own
    if background_from is not None:
        label_map = label_map or {i: i for i in range(len(names))}
        label_map = {
            old: new if new == ignore_index else min(new, background_from)
            for old, new in label_map.items()
        }
        names = [*names[:background_from], 'background']
    return LabelIds(tuple(names), ignore_index, bool(dataset.reduce_zero_label), label_map)


def _choose_samples(dataset: BaseDataset, limit: int | None) -> list[Sample]:
    infos = ((i, dataset.get_data_info(i)) for i in spread(len(dataset), limit))
    return [Sample(i, info['img_path'], info['seg_map_path']) for i, info in infos]


def spread(count: int, limit: int | None) -> list[int]:
    """Choose up to ``limit`` of ``count`` numbers, evenly spaced from the first to the last."""
    if limit is None or limit >= count:
        return list(range(count))
    return np.linspace(0, count - 1, limit).round().astype(int).tolist()


def _official_count(dataset: BaseDataset) -> int | None:
    if dataset._indices is not None:  # a part on purpose
        return None
    split = dataset.ann_file or dataset.data_prefix.get('img_path') or ''
    split = split.rstrip('/').rsplit('/', 1)[-1].removesuffix('.txt')
    counts = getattr(dataset, 'official_counts', None)
    if counts is None:
        of_mmseg = (_OF_MMSEG.get(cls.__name__) for cls in type(dataset).__mro__)
        counts = PUBLISHED_IMAGES.get(next(filter(None, of_mmseg), None), {})
    return counts.get(split)


def load_pair(sample: Sample, loading: Loading) -> tuple[np.ndarray, np.ndarray]:
    """Load an image and its label map as training does.

    Args:
        sample: The files.
        loading: How they are read.

    Returns:
        The image (H, W, 3) uint8 in BGR order, and the ids of the file (H, W), uint8 or uint16.

    Raises:
        ESCNetError: If one of them cannot be read.
    """
    image = LoadImage(**loading.image).transform(dict(img_path=sample.image))['img']
    try:
        content = fileio.get(sample.label, backend_args=loading.label_backend_args)
    except OSError as error:
        raise ESCNetError(
            f'Label map {sample.label} cannot be read ({error.strerror or error}): check the '
            'path, or run the converter of the data set again.'
        ) from error
    return image, decode_label_map(content, sample.label)


def read_sample(sample: Sample, *, loading: Loading) -> Reading:
    """Load an image and its label map and count its ids.

    Raises:
        ESCNetError: If one of them cannot be read.
    """
    image, ids = load_pair(sample, loading)
    pixels = np.bincount(ids.ravel())
    present = np.flatnonzero(pixels)
    return Reading(image.shape[:2], ids.shape, 8 * ids.itemsize, present, pixels[present])


def join_ids(ids: Sequence[int], most: int = 5) -> str:
    """Ids as text, the first few of them."""
    shown = ', '.join(str(int(i)) for i in ids[:most])
    return shown if len(ids) <= most else f'{shown} and {len(ids) - most} more'
