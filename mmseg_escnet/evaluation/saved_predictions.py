"""Save the predictions of a test, and evaluate them again without a model."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import from_numpy
from torch.utils.data import Dataset

from ..errors import ESCNetError
from ..label_folder import STEM_FILE, LabelFiles, LabelReader, image_name, label_file
from ..preflight import check_datasets
from ..progress import progress
from .class_report import write_report
from .open_vocab_iou_metric import OpenVocabIoUMetric


def _image_dir(dataset: Dataset) -> str | None:
    return (getattr(dataset, 'data_prefix', None) or {}).get('img_path')


def _image_paths(dataset: Dataset) -> list[str]:
    return [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]


def save_predictions(
    cfg: Config, dataset: Dataset, folder: str, dataset_name: str | None = None
) -> None:
    """Let the metric write its predictions, one file per image.

    Args:
        cfg: The config, changed in place.
        dataset: The test data set, built.
        folder: Output folder.
        dataset_name: Name of the data set; that of its class by default.

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
    image_dir = _image_dir(dataset)
    files = LabelFiles(STEM_FILE, image_dir)
    for path in _image_paths(dataset):
        files.of(path)
    cfg.test_evaluator.update(output_dir=folder, keep_results=True)
    if cfg.test_evaluator.type == 'OpenVocabIoUMetric':
        cfg.test_evaluator.update(
            image_dir=image_dir, dataset_name=dataset_name or type(dataset).__name__
        )


def evaluate_predictions(
    cfg: Config, folder: str | os.PathLike, report: str | os.PathLike | None = None
) -> dict[str, float]:
    """Evaluate label maps written by ``tools/test.py --out`` or ``tools/infer.py``.

    Ground truth is loaded by the config's test pipeline and compared by its metric.

    Args:
        cfg: A complete config, with the data set and metric the predictions were made for.
        folder: The predictions.
        report: Where to write the report of a test (:func:`.write_report`).

    Returns:
        The results of the metric.

    Raises:
        ESCNetError: If names, files, sizes or ids do not match the data set, or settings of the
            metric differ from those recorded with the predictions.
    """
    reader = LabelReader(folder)
    dataset = check_datasets(cfg, 'test')['test']
    reader.check_classes(dataset.metainfo['classes'], f'the data set {type(dataset).__name__}')
    image_dir = _image_dir(dataset)
    reader.check_files(image_name(path, image_dir) for path in _image_paths(dataset))

    own = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    evaluator = Evaluator([{k: v for k, v in each.items() if k != 'output_dir'} for each in own])
    evaluator.dataset_meta = dataset.metainfo
    for metric in evaluator.metrics:
        _check_metric(metric, reader)
    loader = Runner.build_dataloader(dict(cfg.test_dataloader, dataset=dataset))
    with progress(total=len(dataset), desc='evaluating', unit='image') as bar:
        for batch in loader:
            for sample in batch['data_samples']:
                evaluator.process([_with_prediction(sample.to_dict(), reader, image_dir)])
                bar.update()
    metrics = evaluator.evaluate(len(dataset))
    if report is not None:
        write_report(evaluator, metrics, report)
    return metrics


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
        saved = reader.record.get(name, own)  # tools/infer.py records no background_from
        if saved != own:
            raise ESCNetError(
                f'The predictions in {reader.folder} were made with {name}={saved}, the metric of '
                f'the config has {own}: evaluate them with the config they were made with.'
            )
