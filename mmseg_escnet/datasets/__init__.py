"""Data sets of open-vocabulary segmentation, and how their files are read."""

from . import transforms
from .benchmark_vocabularies import BenchmarkClass, load_benchmark, vocabulary_names
from .checked_dataset import CheckedDatasetMixin
from .coco_stuff171 import COCOStuff171Dataset
from .toyworld import ToyWorldDataset
from .transforms import LoadImage, LoadLabelMap

__all__ = [
    'BenchmarkClass',
    'COCOStuff171Dataset',
    'CheckedDatasetMixin',
    'LoadImage',
    'LoadLabelMap',
    'ToyWorldDataset',
    'load_benchmark',
    'transforms',
    'vocabulary_names',
]
