"""Data sets of open-vocabulary segmentation, and how their files are read.

Those that MMSegmentation knows are imported when they are asked for: converters use the other
modules of this folder, and have no need of torch.
"""

from .benchmark_vocabularies import BenchmarkClass, load_benchmark, vocabulary_names

_REGISTERED = (
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
)
__all__ = ['BenchmarkClass', 'load_benchmark', 'vocabulary_names', *_REGISTERED]


def __getattr__(name: str):
    """A data set or transform of :mod:`.registered`."""
    if name in _REGISTERED:
        from . import registered

        return getattr(registered, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
