"""Inference in Python: images and words in, label maps out."""

from .. import components  # noqa: F401  reports missing requirements
from ..class_files import read_classes
from ..image_files import find_images
from .inference_file import encode_inference_file
from .inferencer import OpenVocabInferencer
from .inside import WordInside
from .query import COMMON_BACKGROUND, Query
from .result import SegmentationResult

__all__ = [
    'COMMON_BACKGROUND',
    'OpenVocabInferencer',
    'Query',
    'SegmentationResult',
    'WordInside',
    'encode_inference_file',
    'find_images',
    'read_classes',
]
