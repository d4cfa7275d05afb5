"""Train ESC-Net on the toy world, and compare it with raw CLIP, chance and a control.

Shapes: B images of H x W pixels, N classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import load_checkpoint
from mmseg.registry import DATASETS, METRICS, MODELS
from torch import Tensor

from ..config import clip_alone
from ..engine import build_runner, quiet_log
from ..files import write_file
from ..models.sparse_rows import sparse_rows
from ..progress import progress
from .vocabulary import vocabulary_of

GROUPS = {  # vocabularies of the toy world -> titles
    'seen_things': 'shapes with masks in training',
    'seen_stuff': 'grounds with masks in training',
    'unseen_combination': 'colour and shape masked, not together',
    'unseen_attribute': 'shape or ground never masked',
}


# -- training ------------------------------------------------------------------------------------


def use_scenes(cfg, root: Path) -> None:
    """Set the scenes of a config, and disable validation during training."""
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    for phase in ('train', 'test'):
        cfg[f'{phase}_dataloader'].dataset.data_root = f'{root}/'


def shorten(cfg, iterations: int) -> None:
    """Change the number of iterations, with a learning rate that decays to zero at the end."""
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = iterations
    warm_up, decay = cfg.param_scheduler
    warm_up.end = decay.begin = min(warm_up.end, iterations // 2)
    if warm_up.end < 2:  # too few for a warm-up
        cfg.param_scheduler, decay.begin = [decay], 0
    decay.end, decay.T_max = iterations, max(1, iterations - decay.begin)


def train(cfg, checkpoint: str | None = None):
    """Build the model and train it, or load a trained one.

    Returns:
        The model; CLIP alone, which it starts from; and the values logged at each iteration by
        title.
    """
    clip = MODELS.build(clip_alone(cfg.model))
    with quiet_log():  # would contain a line for each parameter
        clip.init_weights()
    if checkpoint is not None:
        model = MODELS.build(cfg.model)
        meta = load_checkpoint(model, checkpoint, map_location='cpu').get('meta', {})
        if 'dataset_meta' in meta:
            model.dataset_meta = meta['dataset_meta']
        return model, clip, {}
    runner = build_runner(cfg)
    runner.train()
    logged = {
        title: runner.message_hub.get_scalar(key).data[0].tolist()
        for key, title in (('train/loss', 'loss'), ('train/decode.acc_seg', 'pixel accuracy (%)'))
    }
    return runner.model, clip, logged


def save_weights(model, path: Path) -> None:
    """Write a model's weights in half precision, with sparse token embeddings.

    The names of its vocabulary are stored as ``dataset_meta`` for MMSegmentation's ``init_model``,
    without their colours, which follow from them.
    """
    state = {}
    for key, value in model.state_dict().items():
        value = value.detach().cpu()
        value = value.half() if value.is_floating_point() else value.clone()
        state[key] = sparse_rows(value) if key.endswith('token_embedding.weight') else value
    buffer = io.BytesIO()
    meta = dict(dataset_meta=dict(classes=model.vocabulary.names))
    torch.save(dict(state_dict=state, meta=meta), buffer)
    write_file(path, buffer.getbuffer())


# -- measuring -----------------------------------------------------------------------------------


@dataclass
class Measurement:
    """Results of a model on a data set.

    Attributes:
        metrics: Of OpenVocabIoUMetric, in percent.
        class_iou: (N,) in percent, NaN for classes that do not occur.
        results: Intermediate results of the metric.
        predictions: Label maps (H, W) of the first images.
    """

    metrics: dict[str, float]
    class_iou: np.ndarray
    results: list = field(default_factory=list)
    predictions: list[np.ndarray] = field(default_factory=list)


def build_dataset(cfg, **overrides):
    """Build the test data set of a config, with some settings changed."""
    return DATASETS.build(dict(cfg.test_dataloader.dataset, **overrides))


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
    """Segment every image of a data set and evaluate.

    Args:
        model: ESCNet.
        dataset: A built data set.
        evaluator: Config of the metric.
        words: Words for the model in place of the class names.
        predict: Maps model, inputs and meta information to logits; ESC-Net's own by default.
        description: Of the progress bar.
        keep: Number of predictions to keep.
    """
    model.eval()
    model.set_vocabulary(words or dataset.metainfo['classes'], dataset.metainfo['palette'])
    metric = METRICS.build(dict(evaluator))
    metric.dataset_meta = dataset.metainfo
    predictions = []
    for number in progress(range(len(dataset)), desc=description, unit='image'):
        data = model.data_preprocessor(pseudo_collate([dataset[number]]), False)
        inputs, samples = data['inputs'], data['data_samples']
        if predict is None:
            samples = model.predict(inputs, samples)
        else:
            logits = predict(model, inputs, [sample.metainfo for sample in samples])
            samples = model.postprocess_result(logits, samples)
        metric.process({}, [sample.to_dict() for sample in samples])
        if number < keep:
            predictions.append(samples[0].pred_sem_seg.data[0].cpu().numpy())
    class_iou, _ = metric.class_iou(metric.results)
    with quiet_log():  # would contain a table of all classes
        metrics = metric.compute_metrics(metric.results)
    return Measurement(metrics, class_iou, metric.results, predictions)


def permuted(names: Sequence[str]) -> list[str]:
    """The names, with those without masks permuted within their group, as a control.

    A model that recognises a class by its word must fail.
    """
    result = list(names)
    for key in ('unseen_combination', 'unseen_attribute'):
        group = [name for name in vocabulary_of(key) if name in names]
        for name, other in zip(group, group[1:] + group[:1], strict=True):
            result[names.index(name)] = other
    return result


def chance_iou(dataset) -> np.ndarray:
    """IoU (N,) in percent of random guesses, NaN for classes that do not occur."""
    num_classes = len(dataset.metainfo['classes'])
    counts = np.zeros(num_classes)
    for item in dataset:
        labels = item['data_samples'].gt_sem_seg.data.numpy()
        counts += np.bincount(labels[labels < num_classes], minlength=num_classes)
    share = counts / counts.sum()
    # intersection share / N, union share + 1 / N - share / N
    iou = share / (share * num_classes + 1 - share)
    return np.where(counts > 0, 100 * iou, np.nan)
