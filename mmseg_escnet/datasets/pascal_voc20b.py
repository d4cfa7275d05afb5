"""PAS-20b: PASCAL VOC 2012 with its 20 objects and the background."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.datasets import BaseSegDataset, PascalVOCDataset
from mmseg.registry import DATASETS

from ..errors import ESCNetError
from ..vocabulary import name_color
from .benchmark_vocabularies import vocabulary_names
from .checked_dataset import CheckedDatasetMixin

_OBJECTS = vocabulary_names('voc20')
_WORDS = vocabulary_names('voc20b')


def _palette(words: Sequence[str]) -> list[list[int]]:
    colors = [list(name_color(name)) for name in words[len(_OBJECTS) :]]
    return PascalVOCDataset.METAINFO['palette'][1:] + colors


@DATASETS.register_module()
class PascalVOC20bDataset(CheckedDatasetMixin, BaseSegDataset):
    """PASCAL VOC with 20 objects and background, checked at start-up; to evaluate, not to train.

    21 classes are evaluated, but 59 words are looked for: after the 20 objects, the 39 classes of
    PC-59 that are none of them stand for the background. So ``metainfo['classes']`` has 59 names
    while label maps hold 0..19, 20 for background and 255 for borders, and
    ``OpenVocabIoUMetric(background_from=20)`` counts every id from 20 on as background.
    ``tools/dataset_converters/pascal_voc.py`` makes the label maps.

    All arguments are those of ``BaseSegDataset``. ``metainfo['classes']`` can name other words for
    the background; they come after the 20 objects.
    """

    METAINFO = dict(classes=_WORDS, palette=_palette(_WORDS), background_from=len(_OBJECTS))
    prepare_hint = (
        'run `python tools/dataset_converters/pascal_voc.py RAW --out data/VOCdevkit/VOC2012` '
        'with RAW the folder VOC2012 was unpacked in'
    )

    def get_label_map(self, new_classes: Sequence[str] | None = None) -> None:
        """Nothing is mapped: ids of the files are the objects and one for all other words.

        Raises:
            ESCNetError: If the words do not begin with the 20 objects, or end there.
        """
        words = tuple(_WORDS if new_classes is None else new_classes)
        if words[: len(_OBJECTS)] != _OBJECTS or len(words) == len(_OBJECTS):
            raise ESCNetError(
                f"{type(self).__name__} got metainfo['classes'] of {len(words)} words that are not "
                'the 20 objects of PASCAL VOC, in their order, and then words for the background: '
                'begin with those of load_benchmark("voc20").'
            )

    def _update_palette(self) -> list:
        given = self._metainfo['palette']
        return _palette(self._metainfo['classes']) if given == self.file_palette else given
