"""A-150: ADE20K with its 150 classes."""

from mmseg.datasets import ADE20KDataset
from mmseg.registry import DATASETS

from .benchmark_vocabularies import load_benchmark
from .checked_dataset import CheckedDatasetMixin


@DATASETS.register_module()
class ADE20K150Dataset(CheckedDatasetMixin, ADE20KDataset):
    """ADE20K with 150 classes, checked at start-up; colours and files as in MMSegmentation.

    Label maps are read as published: 1..150, and 0 for pixels of no class, which are ignored. All
    arguments are those of ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=tuple(entry.name for entry in load_benchmark('ade150')),
        palette=ADE20KDataset.METAINFO['palette'],
    )
    prepare_hint = (
        'unpack http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip in data/ade'
    )
