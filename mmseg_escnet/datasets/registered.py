"""The data sets and transforms: importing this registers them in MMSegmentation."""

from .. import compat  # noqa: F401  before mmseg
from . import transforms
from .ade20k150 import ADE20K150Dataset
from .ade20k847 import ADE20K847Dataset
from .checked_dataset import CheckedDatasetMixin
from .coco_stuff171 import COCOStuff171Dataset
from .folder import FolderDataset
from .pascal_context59 import PascalContext59Dataset
from .pascal_context459 import PascalContext459Dataset
from .pascal_voc20 import PascalVOC20Dataset
from .pascal_voc20b import PascalVOC20bDataset
from .transforms import LoadImage, LoadLabelMap

__all__ = [
    'ADE20K150Dataset',
    'ADE20K847Dataset',
    'COCOStuff171Dataset',
    'CheckedDatasetMixin',
    'FolderDataset',
    'LoadImage',
    'LoadLabelMap',
    'PascalContext59Dataset',
    'PascalContext459Dataset',
    'PascalVOC20Dataset',
    'PascalVOC20bDataset',
    'transforms',
]
