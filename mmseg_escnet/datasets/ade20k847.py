"""A-847: ADE20K-full with the 847 classes of the open-vocabulary benchmark."""

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..vocabulary import name_color
from .benchmark_vocabularies import vocabulary_names
from .checked_dataset import CheckedDatasetMixin


@DATASETS.register_module()
class ADE20K847Dataset(CheckedDatasetMixin, BaseSegDataset):
    """ADE20K-full with 847 classes, checked at start-up.

    Label maps are PNG of 16 bits: 0..846, and 65535 for pixels of no class (255 is a class);
    ``tools/dataset_converters/ade20k_847.py`` makes them.

    Args:
        ignore_index: Id of pixels of no class. Whatever else has such an argument (the metric,
            cropping, padding, a loss) needs the same.
        kwargs: All other arguments of ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=vocabulary_names('ade847'),
        palette=[list(name_color(name)) for name in vocabulary_names('ade847')],
    )
    prepare_hint = (
        'run `python tools/dataset_converters/ade20k_847.py RAW --out data/ADE20K_2021_17_01` '
        'with RAW the folder ADE20K-full was unpacked in'
    )

    def __init__(self, *, ignore_index: int = 65_535, **kwargs) -> None:
        super().__init__(ignore_index=ignore_index, **kwargs)
