"""PC-59: PASCAL-Context with its 59 most frequent classes."""

from mmseg.datasets import BaseSegDataset, PascalContextDataset59
from mmseg.registry import DATASETS

from .benchmark_vocabularies import vocabulary_names
from .checked_dataset import CheckedDatasetMixin


@DATASETS.register_module()
class PascalContext59Dataset(CheckedDatasetMixin, BaseSegDataset):
    """PASCAL-Context with 59 classes, checked at start-up; files and colours as in MMSegmentation.

    Label maps hold 1..59, and 0 for pixels of any other class, which are ignored;
    ``tools/dataset_converters/pascal_context.py`` makes them, and those that MMSegmentation's own
    converter made can be read too. Not a subclass of ``PascalContextDataset59``, which asserts
    that its folder exists even where the data set is built without reading it.

    Args:
        reduce_zero_label: Whether 0 is no class in the files.
        kwargs: All other arguments of ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=vocabulary_names('pc59'),
        palette=PascalContextDataset59.METAINFO['palette'],
    )
    prepare_hint = (
        'run `python tools/dataset_converters/pascal_context.py RAW --out data/VOCdevkit/VOC2010` '
        'with RAW the folder VOC2010 was unpacked in'
    )

    def __init__(self, *, reduce_zero_label: bool = True, **kwargs) -> None:
        super().__init__(reduce_zero_label=reduce_zero_label, **kwargs)
