"""Ready-made ways to use a model, and the checks that the tools make."""

from .. import components  # noqa: F401  says what is missing, if anything is
from ..image_files import find_images
from ..vocabulary import read_classes
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
