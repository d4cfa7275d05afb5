"""PAS-20: PASCAL VOC 2012 with its 20 objects."""

from mmseg.datasets import BaseSegDataset, PascalVOCDataset
from mmseg.registry import DATASETS

from .benchmark_vocabularies import vocabulary_names
from .checked_dataset import CheckedDatasetMixin


@DATASETS.register_module()
class PascalVOC20Dataset(CheckedDatasetMixin, BaseSegDataset):
    """PASCAL VOC with 20 objects, checked at start-up; the background is ignored.

    Label maps hold 0..19, and 255 for background and borders;
    ``tools/dataset_converters/pascal_voc.py`` makes them. All arguments are those of
    ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=vocabulary_names('voc20'),
        palette=PascalVOCDataset.METAINFO['palette'][1:],
    )
    prepare_hint = (
        'run `python tools/dataset_converters/pascal_voc.py RAW --out data/VOCdevkit/VOC2012` '
        'with RAW the folder VOC2012 was unpacked in'
    )
