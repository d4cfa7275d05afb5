"""Evaluation of open-vocabulary segmentation."""

from .. import compat  # noqa: F401  before mmseg
from .class_report import ClassReportHook
from .open_vocab_iou_metric import OpenVocabIoUMetric

__all__ = ['ClassReportHook', 'OpenVocabIoUMetric']
