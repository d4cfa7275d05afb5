"""Transforms that read images and label maps."""

from ... import compat  # noqa: F401  before mmseg
from .load_image import LoadImage
from .load_label_map import LoadLabelMap

__all__ = ['LoadImage', 'LoadLabelMap']
