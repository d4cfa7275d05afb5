"""The published data sets, with start-up checks.

All arguments are those of ``BaseSegDataset``. To add a data set: a class here, its words in
``vocabularies/NAME.json``, and a config in ``configs/_base_/datasets``.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import compat  # noqa: F401  before mmseg

# isort: split

from mmseg.datasets import (
    ADE20KDataset,
    BaseSegDataset,
    COCOStuffDataset,
    PascalContextDataset59,
    PascalVOCDataset,
)
from mmseg.registry import DATASETS

from ..errors import ESCNetError
from ..vocabulary import palette_of
from .benchmark_vocabularies import PUBLISHED_IMAGES, vocabulary_names
from .checked import CheckedDatasetMixin

_CONVERT = 'run `mmseg-escnet convert {} RAW --out data/{}` with RAW the folder {} was unpacked in'


class _WideDataset(CheckedDatasetMixin, BaseSegDataset):
    """A data set of more than 255 classes, with label maps of 16 bits.

    Args:
        ignore_index: Id of pixels without a class. The metric, cropping, padding and losses need
            the same value.
        kwargs: Other arguments of ``BaseSegDataset``.
    """

    def __init__(self, *, ignore_index: int = 65_535, **kwargs) -> None:
        super().__init__(ignore_index=ignore_index, **kwargs)


@DATASETS.register_module()
class COCOStuff171Dataset(CheckedDatasetMixin, COCOStuffDataset):
    """COCO-Stuff 164k with 171 classes; names, colours and files as in MMSegmentation.

    Label maps hold 0..170, and 255 for unlabelled pixels.
    """

    METAINFO = dict(
        classes=vocabulary_names('coco_stuff171'), palette=COCOStuffDataset.METAINFO['palette']
    )
    official_counts = PUBLISHED_IMAGES['coco_stuff']
    prepare_hint = _CONVERT.format('coco_stuff164k', 'coco_stuff164k', 'COCO-Stuff')


@DATASETS.register_module()
class ADE20K150Dataset(CheckedDatasetMixin, ADE20KDataset):
    """A-150, ADE20K with 150 classes; colours and files as in MMSegmentation.

    Label maps are used as published: 1..150, and 0 for pixels without a class, which are ignored.
    """

    METAINFO = dict(classes=vocabulary_names('ade150'), palette=ADE20KDataset.METAINFO['palette'])
    official_counts = PUBLISHED_IMAGES['ade20k']
    prepare_hint = (
        'unpack http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip in data/ade'
    )


@DATASETS.register_module()
class ADE20K847Dataset(_WideDataset):
    """A-847, ADE20K-full with the 847 classes of the open-vocabulary benchmark.

    Label maps hold 0..846, and 65535 for pixels without a class (255 is a class).
    """

    METAINFO = dict(
        classes=vocabulary_names('ade847'),
        palette=palette_of(vocabulary_names('ade847')),
    )
    official_counts = PUBLISHED_IMAGES['ade20k_full']
    prepare_hint = _CONVERT.format('ade20k_847', 'ADE20K_2021_17_01', 'ADE20K-full')


@DATASETS.register_module()
class PascalContext59Dataset(CheckedDatasetMixin, BaseSegDataset):
    """PC-59, PASCAL-Context with 59 classes; files and colours as in MMSegmentation.

    These are its most frequent ones. Label maps hold 1..59, and 0 for all others, which are
    ignored; those of MMSegmentation's own converter work too. Not a subclass of
    ``PascalContextDataset59``, which asserts that its folder exists even with ``lazy_init``.

    Args:
        reduce_zero_label: Whether 0 means no class in the files.
        kwargs: Other arguments of ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=vocabulary_names('pc59'), palette=PascalContextDataset59.METAINFO['palette']
    )
    official_counts = PUBLISHED_IMAGES['pascal_context']
    prepare_hint = _CONVERT.format('pascal_context', 'VOCdevkit/VOC2010', 'VOC2010')

    def __init__(self, *, reduce_zero_label: bool = True, **kwargs) -> None:
        super().__init__(reduce_zero_label=reduce_zero_label, **kwargs)


@DATASETS.register_module()
class PascalContext459Dataset(_WideDataset):
    """PC-459, PASCAL-Context with all of its 459 classes.

    Label maps hold 0..458, and 65535 for pixels without a class (255 is a class).
    """

    METAINFO = dict(
        classes=vocabulary_names('pc459'),
        palette=palette_of(vocabulary_names('pc459')),
    )
    official_counts = PUBLISHED_IMAGES['pascal_context']
    prepare_hint = PascalContext59Dataset.prepare_hint


@DATASETS.register_module()
class PascalVOC20Dataset(CheckedDatasetMixin, BaseSegDataset):
    """PAS-20, PASCAL VOC 2012 with its 20 objects; the background is ignored.

    Label maps hold 0..19, and 255 for background and borders.
    """

    METAINFO = dict(
        classes=vocabulary_names('voc20'), palette=PascalVOCDataset.METAINFO['palette'][1:]
    )
    official_counts = PUBLISHED_IMAGES['pascal_voc']
    prepare_hint = _CONVERT.format('pascal_voc', 'VOCdevkit/VOC2012', 'VOC2012')


_OBJECTS = vocabulary_names('voc20')
_WORDS = vocabulary_names('voc20b')


def _voc_palette(words: Sequence[str]) -> list[list[int]]:
    return PascalVOC20Dataset.METAINFO['palette'] + palette_of(words[len(_OBJECTS) :])


@DATASETS.register_module()
class PascalVOC20bDataset(CheckedDatasetMixin, BaseSegDataset):
    """PAS-20b, PASCAL VOC 2012 with its 20 objects and background; for evaluation, not training.

    21 classes are evaluated, but 59 words are predicted: after the 20 objects, the other 39 classes
    of PC-59 represent the background. So ``metainfo['classes']`` has 59 names while label maps hold
    0..19, 20 for background and 255 for borders, and ``OpenVocabIoUMetric(background_from=20)``
    counts every id from 20 on as background. ``metainfo['classes']`` can give other words for the
    background, after the 20 objects.
    """

    METAINFO = dict(classes=_WORDS, palette=_voc_palette(_WORDS), background_from=len(_OBJECTS))
    official_counts = PUBLISHED_IMAGES['pascal_voc']
    prepare_hint = PascalVOC20Dataset.prepare_hint

    def get_label_map(self, new_classes: Sequence[str] | None = None) -> None:
        """No mapping: ids in the files are the objects, and one for all other words.

        Raises:
            ESCNetError: If the words are not the 20 objects followed by others.
        """
        words = tuple(_WORDS if new_classes is None else new_classes)
        if words[: len(_OBJECTS)] != _OBJECTS or len(words) == len(_OBJECTS):
            raise ESCNetError(
                f"{type(self).__name__} got metainfo['classes'] of {len(words)} words that are not "
                'the 20 objects of PASCAL VOC, in order, followed by words for the background: '
                'begin with those of load_benchmark("voc20").'
            )

    def _update_palette(self) -> list:
        given = self._metainfo['palette']
        return _voc_palette(self._metainfo['classes']) if given == self.file_palette else given
