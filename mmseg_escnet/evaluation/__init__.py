"""Evaluation of open-vocabulary segmentation."""

from .open_vocab_iou_metric import OpenVocabIoUMetric

__all__ = ['OpenVocabIoUMetric']
