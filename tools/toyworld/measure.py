"""Measure a model on scenes of the toy world, beside CLIP's raw read-out, chance and a control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmseg.registry import DATASETS, METRICS
from torch import Tensor
from tqdm import tqdm

from mmseg_escnet.models.segmentors.escnet import correlate
from mmseg_escnet.toyworld.vocabulary import vocabulary_of

GROUPS = {  # of names, a vocabulary of the toy world each: what it is called
    'seen_things': 'shapes with masks in training',
    'seen_stuff': 'grounds with masks in training',
    'unseen_combination': 'colour and shape masked, not together',
    'unseen_attribute': 'shape or ground never masked',
}


@dataclass
class Measurement:
    """What a model reaches on a data set.

    Attributes:
        metrics: Of OpenVocabIoUMetric, in percent.
        class_iou: (N,) in percent, NaN for a class that does not occur.
        results: What the metric added up, an entry for every image.
        predictions: Label maps (H, W) of the first images.
    """

    metrics: dict[str, float]
    class_iou: np.ndarray
    results: list = field(default_factory=list)
    predictions: list[np.ndarray] = field(default_factory=list)


def raw_readout(model, inputs: Tensor, metas: list[dict]) -> Tensor:
    """CLIP alone: its correlation C_0 as logits (B, N, H, W)."""
    correlation = correlate(model.backbone(inputs).image, model.text_features())
    return F.interpolate(correlation, inputs.shape[-2:], mode='bilinear') * (
        model.backbone.logit_scale
    )


@torch.no_grad()
def measure(
    model,
    dataset,
    evaluator: dict,
    *,
    words: Sequence[str] | None = None,
    predict: Callable[[object, Tensor, list[dict]], Tensor] | None = None,
    description: str = 'evaluation',
    keep: int = 0,
) -> Measurement:
    """Segment every image of a data set and compare.

    Args:
        model: ESCNet.
        dataset: A built data set.
        evaluator: Config of the metric.
        words: What the model is told the classes are called, if not by their names.
        predict: From model, inputs and meta information to logits; ESC-Net's own by default.
        description: Stands before the progress bar.
        keep: Number of predictions to keep.
    """
    model.eval()
    model.set_vocabulary(words or dataset.metainfo['classes'], dataset.metainfo['palette'])
    metric = METRICS.build(dict(evaluator))
    metric.dataset_meta = dataset.metainfo
    predictions = []
    for number in tqdm(range(len(dataset)), desc=description, unit='image', disable=None):
        data = model.data_preprocessor(pseudo_collate([dataset[number]]), False)
        if predict is None:
            samples = model.predict(data['inputs'], data['data_samples'])
        else:
            metas = [sample.metainfo for sample in data['data_samples']]
            logits = predict(model, data['inputs'], metas)
            samples = model.postprocess_result(logits, data['data_samples'])
        metric.process({}, [sample.to_dict() for sample in samples])
        if number < keep:
            predictions.append(samples[0].pred_sem_seg.data[0].cpu().numpy())
    class_iou, _ = metric.class_iou(metric.results)
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')  # the table of all classes is drawn, not printed
    try:
        metrics = metric.compute_metrics(metric.results)
    finally:
        logger.setLevel(level)
    return Measurement(metrics, class_iou, metric.results, predictions)


def permuted(names: Sequence[str]) -> list[str]:
    """The names with those without masks exchanged among themselves: a control.

    Who finds a class by its word must lose it now; who finds it otherwise keeps it.
    """
    result = list(names)
    for key in ('unseen_combination', 'unseen_attribute'):
        group = [name for name in vocabulary_of(key) if name in names]
        for name, other in zip(group, group[1:] + group[:1], strict=True):
            result[names.index(name)] = other
    return result


def chance_iou(dataset) -> np.ndarray:
    """IoU (N,) in percent of guessing every pixel, NaN for classes that do not occur."""
    num_classes = len(dataset.metainfo['classes'])
    counts = np.zeros(num_classes)
    for item in dataset:
        labels = item['data_samples'].gt_sem_seg.data.numpy()
        counts += np.bincount(labels[labels < num_classes], minlength=num_classes)
    share = counts / counts.sum()
    # right in share / N of the pixels, labelled or guessed in share + 1 / N - share / N
    iou = share / (share * num_classes + 1 - share)
    return np.where(counts > 0, 100 * iou, np.nan)


def build_dataset(cfg, **overrides):
    """The data set of a config's test phase, with some of its settings changed."""
    return DATASETS.build(dict(cfg.test_dataloader.dataset, **overrides))
