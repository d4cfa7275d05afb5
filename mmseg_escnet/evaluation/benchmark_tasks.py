"""A benchmark as MMEngine runs it: the model's config with another data set under test."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from torch.utils.data import Dataset

from ..config import config_folder
from ..errors import ESCNetError
from ..preflight import check_datasets
from .benchmarks import Benchmark
from .options import use_tta

_OF_BENCHMARK = ('test_dataloader', 'test_evaluator', 'tta_pipeline')


@dataclass
class Task:
    """A benchmark whose data is there.

    Attributes:
        benchmark: Which.
        cfg: The model's config with the benchmark's data set and metric under test.
        settings: Digest of everything in it that the figures depend on.
        dataset: The data set, built.
    """

    benchmark: Benchmark
    cfg: Config
    settings: str
    dataset: Dataset


def benchmark_config(
    cfg: Config, benchmark: Benchmark, overrides: Mapping[str, object] | None = None
) -> Config:
    """The model's config with a benchmark under test.

    Which classes are seen is said by the training data set of the model's config, where it is given
    in full: it goes before ``seen`` of the benchmark's metric.

    Args:
        cfg: The model's config; left as it is.
        benchmark: Which.
        overrides: ``--cfg-options``; those of data and metric under test are used for it too.

    Raises:
        ESCNetError: If the data set has another number of classes than the benchmark.
    """
    data = Config.fromfile(config_folder() / '_base_' / 'datasets' / benchmark.config)
    cfg = copy.deepcopy(cfg)
    for key in _OF_BENCHMARK:
        cfg.pop(key, None)
        if key in data:
            cfg[key] = data[key]
    cfg.merge_from_dict(
        {k: v for k, v in (overrides or {}).items() if k.split('.')[0] in _OF_BENCHMARK}
    )
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    classes = _build_lazily(cfg.test_dataloader.dataset).metainfo['classes']
    if len(classes) != benchmark.num_words:
        raise ESCNetError(
            f'{benchmark.key} has {benchmark.num_words} class names, but the data set of '
            f'{benchmark.config} has {len(classes)}: its figures would not be comparable, so take '
            'the change back.'
        )
    seen = _training_classes(cfg)
    evaluator = cfg.test_evaluator
    if seen is not None and evaluator.get('type') == 'OpenVocabIoUMetric':
        evaluator.seen = list(seen)
    return cfg


def _build_lazily(dataset: dict) -> Dataset:
    return DATASETS.build(dict(copy.deepcopy(dataset), lazy_init=True))


def _training_classes(cfg: Config) -> Sequence[str] | None:
    dataset = (cfg.get('train_dataloader') or {}).get('dataset')
    if dataset is None or 'dataset' in dataset or 'datasets' in dataset:
        return None  # a wrapper cannot be built without its data
    return _build_lazily(dataset).metainfo.get('classes')


def prepare(
    cfg: Config,
    benchmark: Benchmark,
    *,
    overrides: Mapping[str, object] | None = None,
    tta: bool = False,
) -> Task | str:
    """Check a benchmark before anything is run.

    Args:
        cfg: The model's config.
        benchmark: Which.
        overrides: See :func:`benchmark_config`.
        tta: Whether to use test-time augmentation.

    Returns:
        What to run; a sentence instead if its data is not there.

    Raises:
        ESCNetError: If the data is there and something is wrong with it.
    """
    cfg = benchmark_config(cfg, benchmark, overrides)
    if tta:
        use_tta(cfg)
    try:
        dataset = check_datasets(cfg, 'test')['test']
    except ESCNetError as error:
        if _is_absent(cfg.test_dataloader.dataset):
            return str(error)
        raise ESCNetError(f'{benchmark.key}: {error}') from error
    decisive = dict(
        model=cfg.model.to_dict(),
        loop=cfg.get('test_cfg'),
        dataset=cfg.test_dataloader.dataset.to_dict(),
        evaluator=cfg.test_evaluator.to_dict(),
        classes=list(dataset.metainfo['classes']),
        images=len(dataset),
    )
    text = json.dumps(decisive, sort_keys=True, default=str)
    return Task(benchmark, cfg, hashlib.sha256(text.encode()).hexdigest(), dataset)


def _is_absent(dataset_cfg: dict) -> bool:
    dataset = _build_lazily(dataset_cfg)
    needed = [*dataset.data_prefix.values(), dataset.ann_file]
    return any(path and not os.path.exists(path) for path in needed)
