"""COCO-Stuff 164k with its 171 classes."""

from mmseg.datasets import COCOStuffDataset
from mmseg.registry import DATASETS

from .benchmark_vocabularies import load_benchmark
from .checked_dataset import CheckedDatasetMixin


@DATASETS.register_module()
class COCOStuff171Dataset(CheckedDatasetMixin, COCOStuffDataset):
    """COCO-Stuff 164k, checked at start-up; names, colours and files as in MMSegmentation.

    Label maps hold 0..170 and 255 for unlabelled pixels; ``tools/dataset_converters/
    coco_stuff164k.py`` makes them. All arguments are those of ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=tuple(entry.name for entry in load_benchmark('coco_stuff171')),
        palette=COCOStuffDataset.METAINFO['palette'],
    )
    prepare_hint = (
        'run `python tools/dataset_converters/coco_stuff164k.py RAW --out data/coco_stuff164k` '
        'with RAW the folder COCO-Stuff was unpacked in'
    )
