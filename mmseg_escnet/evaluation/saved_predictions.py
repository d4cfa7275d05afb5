"""Predictions saved by a test, and evaluated again without a model."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import from_numpy
from torch.utils.data import Dataset
from tqdm import tqdm

from ..errors import ESCNetError
from ..label_folder import (
    STEM_FILE,
    LabelFiles,
    LabelReader,
    image_dir_of,
    image_name,
    image_paths,
    label_file,
)
from ..preflight import check_datasets
from .open_vocab_iou_metric import OpenVocabIoUMetric


def save_predictions(
    cfg: Config, dataset: Dataset, folder: str, dataset_name: str | None = None
) -> None:
    """Let the metric write its predictions, and make sure that every image gets a file.

    Args:
        cfg: The config, changed in place.
        dataset: The data set under test, built.
        folder: Where to.
        dataset_name: What to call the data set; the name of its class by default.

    Raises:
        ESCNetError: If there are several metrics, two images would share a file, or the folder
            is a file.
    """
    if not isinstance(cfg.test_evaluator, dict):
        raise ESCNetError(
            '--out needs a config with a single test_evaluator: set output_dir of one in a '
            'list with --cfg-options.'
        )
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ESCNetError(f'--out {folder} is a file: give a folder.')
    image_dir = image_dir_of(dataset)
    files = LabelFiles(STEM_FILE, image_dir)
    for path in image_paths(dataset):
        files.of(path)
    cfg.test_evaluator.update(output_dir=folder, keep_results=True)
    if cfg.test_evaluator.type == 'OpenVocabIoUMetric':
        cfg.test_evaluator.update(
            image_dir=image_dir, dataset_name=dataset_name or type(dataset).__name__
        )


def evaluate_predictions(cfg: Config, folder: str | os.PathLike) -> dict[str, float]:
    """Evaluate label maps that ``tools/test.py --out`` or ``tools/infer.py`` wrote.

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
    reader = LabelReader(folder)
    dataset = check_datasets(cfg, 'test')['test']
    reader.check_classes(dataset.metainfo['classes'], f'the data set {type(dataset).__name__}')
    image_dir = image_dir_of(dataset)
    reader.check_files(image_name(path, image_dir) for path in image_paths(dataset))

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


def _with_prediction(sample: dict, reader: LabelReader, image_dir: str | None) -> dict:
    name = image_name(sample['img_path'], image_dir)
    ids = from_numpy(reader.read(name))[None]
    label = sample['gt_sem_seg']['data']
    if ids.shape != label.shape:
        file = reader.folder / label_file(reader.names.file, name)
        raise ESCNetError(
            f'The prediction {file} is {ids.shape[2]}x{ids.shape[1]} pixels, the label map of '
            f'{sample["img_path"]} {label.shape[2]}x{label.shape[1]}: it was made for another '
            'version of the data set, so run tools/test.py with --out again.'
        )
    return dict(sample, pred_sem_seg=dict(data=ids))


def _check_metric(metric: OpenVocabIoUMetric, reader: LabelReader) -> None:
    for name in ('ignore_index', 'background_from'):
        own = getattr(metric, name, None)
        saved = reader.record.get(name, own)  # tools/infer.py knows of no background_from
        if saved != own:
            raise ESCNetError(
                f'The predictions in {reader.folder} were made with {name}={saved}, the metric of '
                f'the config has {own}: evaluate them with the config they were made with.'
            )
