"""Saved predictions against the label maps of a data set, without a model."""

from __future__ import annotations

import os

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import from_numpy
from tqdm import tqdm

from ..errors import ESCNetError
from ..preflight import check_datasets
from .open_vocab_iou_metric import OpenVocabIoUMetric
from .options import image_dir_of, image_paths
from .saved_predictions import PredictionReader, prediction_name


def evaluate_predictions(cfg: Config, folder: str | os.PathLike) -> dict[str, float]:
    """Evaluate predictions that ``tools/test.py --out`` wrote.

    Labels are read by the config's own test pipeline and compared by its own metric.

    Args:
        cfg: A whole config, with the data set and metric the predictions were made for.
        folder: The predictions.

    Returns:
        The figures of the metric.

    Raises:
        ESCNetError: If names, files, sizes or ids do not fit the data set, or the metric counts
            otherwise than the one that wrote the names.
    """
    reader = PredictionReader(folder)
    dataset = check_datasets(cfg, 'test')['test']
    reader.check_classes(dataset.metainfo['classes'], f'the data set {type(dataset).__name__}')
    image_dir = image_dir_of(dataset)
    reader.check_files(prediction_name(path, image_dir) for path in image_paths(dataset))

    own = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    evaluator = Evaluator([{k: v for k, v in each.items() if k != 'output_dir'} for each in own])
    evaluator.dataset_meta = dataset.metainfo
    for metric in evaluator.metrics:
        _check_metric(metric, reader)
    loader = Runner.build_dataloader(dict(cfg.test_dataloader, dataset=dataset))
    with tqdm(total=len(dataset), unit='image', disable=None) as bar:
        for batch in loader:
            for sample in batch['data_samples']:
                evaluator.process([_with_prediction(sample.to_dict(), reader, image_dir)])
                bar.update()
    return evaluator.evaluate(len(dataset))


def _with_prediction(sample: dict, reader: PredictionReader, image_dir: str | None) -> dict:
    name = prediction_name(sample['img_path'], image_dir)
    ids = from_numpy(reader.read(name))[None]
    label = sample['gt_sem_seg']['data']
    if ids.shape != label.shape:
        raise ESCNetError(
            f'The prediction {reader.folder / name} is {ids.shape[2]}x{ids.shape[1]} pixels, the '
            f'label map of {sample["img_path"]} {label.shape[2]}x{label.shape[1]}: it was made for '
            'another version of the data set, so run tools/test.py with --out again.'
        )
    return dict(sample, pred_sem_seg=dict(data=ids))


def _check_metric(metric: OpenVocabIoUMetric, reader: PredictionReader) -> None:
    for name in ('ignore_index', 'background_from'):
        saved, own = getattr(reader.names, name), getattr(metric, name, None)
        if saved != own:
            raise ESCNetError(
                f'The predictions in {reader.folder} were made with {name}={saved}, the metric of '
                f'the config has {own}: evaluate them with the config they were made with.'
            )
