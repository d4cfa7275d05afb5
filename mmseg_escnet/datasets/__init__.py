"""Data sets for open-vocabulary segmentation, and transforms that load their files."""

from importlib import import_module

from .benchmark_vocabularies import BenchmarkClass, load_benchmark, vocabulary_names

_REGISTERED = ('benchmarks', 'checked', 'folder', 'transforms')
__all__ = [
    'ADE20K150Dataset',
    'ADE20K847Dataset',
    'BenchmarkClass',
    'COCOStuff171Dataset',
    'CheckedDatasetMixin',
    'FolderDataset',
    'LoadImage',
    'LoadLabelMap',
    'PascalContext59Dataset',
    'PascalContext459Dataset',
    'PascalVOC20Dataset',
    'PascalVOC20bDataset',
    'load_benchmark',
    'vocabulary_names',
]


def __getattr__(name: str):
    """Import classes lazily: converters need no torch."""
    if name[:1].isupper():
        from .. import compat  # noqa: F401  before mmseg

        for module in _REGISTERED:
            module = import_module(f'.{module}', __name__)
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
