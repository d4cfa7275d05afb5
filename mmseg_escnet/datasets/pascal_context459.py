"""PC-459: PASCAL-Context with all of its 459 classes."""

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..vocabulary import name_color
from .benchmark_vocabularies import vocabulary_names
from .checked_dataset import CheckedDatasetMixin


@DATASETS.register_module()
class PascalContext459Dataset(CheckedDatasetMixin, BaseSegDataset):
    """PASCAL-Context with 459 classes, checked at start-up.

    Label maps are PNG of 16 bits: 0..458, and 65535 for pixels of no class (255 is a class);
    ``tools/dataset_converters/pascal_context.py`` makes them.

    Args:
        ignore_index: Id of pixels of no class. Whatever else has such an argument (the metric,
            cropping, padding, a loss) needs the same.
        kwargs: All other arguments of ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=vocabulary_names('pc459'),
        palette=[list(name_color(name)) for name in vocabulary_names('pc459')],
    )
    prepare_hint = (
        'run `python tools/dataset_converters/pascal_context.py RAW --out data/VOCdevkit/VOC2010` '
        'with RAW the folder VOC2010 was unpacked in'
    )

    def __init__(self, *, ignore_index: int = 65_535, **kwargs) -> None:
        super().__init__(ignore_index=ignore_index, **kwargs)
