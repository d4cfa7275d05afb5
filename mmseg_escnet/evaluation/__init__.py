"""Evaluation of open-vocabulary segmentation."""

from .. import compat  # noqa: F401  before mmseg
from .open_vocab_iou_metric import OpenVocabIoUMetric

__all__ = ['OpenVocabIoUMetric']
