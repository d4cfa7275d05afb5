"""Evaluate a checkpoint on zero-shot benchmarks, each by a runner of its own; resumable."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, HOOKS
from torch.utils.data import Dataset

from ..config import config_folder, pipeline_steps, read_config
from ..engine import (
    VocabularyHook,
    build_test_runner,
    check_test_weights,
    join_processes,
    use_tta,
)
from ..errors import ESCNetError, Problems
from ..files import sha256, write_file
from ..label_folder import NAMES_FILE
from ..models.clip_weights import find_clip
from ..preflight import check_datasets
from ..settings import OF_BENCHMARK, split_options
from ..version import __version__
from .saved_predictions import save_predictions
from .subset import take_subset
from .zero_shot_benchmarks import (
    Benchmark,
    Figures,
    calibration,
    format_table,
    published_for,
)


def evaluate_benchmarks(
    cfg: Config,
    benchmarks: Sequence[Benchmark],
    *,
    checkpoint: str | None,
    overrides: Mapping[str, object] | None = None,
    tta: bool = False,
    subset: int | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    command: str | None = None,
) -> None:
    """What ``tools/test.py --benchmarks`` does: check all, run those whose data is there, tabulate.

    Figures are kept in ``WORK_DIR/benchmarks_CHECKPOINT.json`` as soon as a benchmark is finished,
    with the SHA-256 of the checkpoint and a digest of the settings. One that is finished is run
    again only if one of these differs, or what it was to write into a folder is not there.

    Args:
        cfg: The model's config.
        benchmarks: Which.
        checkpoint: The checkpoint; None for CLIP alone, with the weights that the config names.
        overrides: See :func:`benchmark_config`.
        tta: Whether to use test-time augmentation.
        subset: Number of images of each, for a first look (:func:`.take_subset`) with a file of
            its own; None for all.
        out: Folder for predictions, with a sub-folder for each benchmark.
        show_dir: Folder for painted images, likewise; drawing is switched on in the config.
        command: What was called, kept with the figures.

    Raises:
        ESCNetError: If the data of one is wrong or that of all is absent, or the weights cannot be
            read, with all of this, before anything is run; or one cannot be evaluated; what was
            finished before is kept.
        KeyboardInterrupt: With the way to resume as message.
    """
    join_processes(cfg)
    _check_hooks(cfg)
    configs, datasets, notes, absent, problems = {}, {}, {}, {}, Problems()
    for benchmark in benchmarks:
        key = benchmark.key
        with problems:
            configs[key] = benchmark_config(cfg, benchmark, overrides)
            if tta:
                use_tta(configs[key])
            try:
                datasets[key] = check_datasets(configs[key], 'test')['test']
            except ESCNetError as error:
                if not _is_absent(configs[key].test_dataloader.dataset):
                    raise ESCNetError(f'{key}: {error}') from error
                absent[key] = error
                continue
            if subset is not None:
                notes[key] = take_subset(configs[key], datasets[key], subset)
    for key, error in absent.items():
        if datasets:
            _print(f'{key}: skipped. {error}')
        else:
            problems.sentences.append(f'{key}: {error}')
    with problems:
        check_test_weights(cfg, checkpoint, allow_download=not problems.sentences)
    problems.raise_all()

    path, weights = _results_file('benchmarks', cfg, checkpoint, tta, subset)
    finished = _read_finished(path)
    figures = {}
    for key, dataset in datasets.items():
        made_with = dict(checkpoint_sha256=weights, settings=_digest(configs[key], dataset))
        for name, folder in (('predictions', out), ('painted', show_dir)):
            if folder is not None:
                made_with[name] = os.path.abspath(Path(folder) / key)
        if _is_finished(finished.get(key), made_with):
            _print(f'{key}: finished before, see {path}')
        else:
            entry = _run(configs[key], key, dataset, checkpoint, made_with, path)
            entry |= dict(checkpoint=checkpoint, command=command, note=notes.get(key))
            finished[key] = entry | made_with
            _write_results(path, finished)
        entry = finished[key]
        figures[key] = Figures(entry['metrics'], entry['images'], _published_images(dataset))
    published = published_for(cfg.model)
    _print(f'\n{format_table(figures, published)}')
    if cfg.model.type == 'CLIPReadout':
        _print(calibration(figures, published))
    _print(f'\nkept in {path}')


def evaluate_once(
    cfg: Config,
    dataset: Dataset,
    *,
    checkpoint: str | None,
    tta: bool,
    command: str,
    subset: int | None = None,
) -> None:
    """Evaluate on the config's own data set, and keep the figures in ``test_CHECKPOINT.json``.

    Args:
        cfg: A complete config.
        dataset: Its test data set.
        checkpoint: As for :func:`evaluate_benchmarks`.
        tta: Whether the config is one of test-time augmentation.
        command: As for :func:`evaluate_benchmarks`.
        subset: As for :func:`evaluate_benchmarks`.
    """
    note = None if subset is None else take_subset(cfg, dataset, subset)
    path, weights = _results_file('test', cfg, checkpoint, tta, subset)
    entry = _measure(cfg, dataset, checkpoint)
    if entry['metrics']:  # none if predictions alone are saved
        made_with = dict(checkpoint=checkpoint, command=command, checkpoint_sha256=weights)
        made_with['note'] = note
        _write_results(path, {type(dataset).__name__: entry | made_with})
        _print(f'kept in {path}' if note is None else f'{note}; kept in {path}')


def benchmark_config(
    cfg: Config, benchmark: Benchmark, overrides: Mapping[str, object] | None = None
) -> Config:
    """The model's config with a benchmark under test.

    Which classes are seen is said by the training data set of the model's config, where it is given
    in full: it takes precedence over ``seen`` of the benchmark's metric.

    Args:
        cfg: The model's config; left as it is.
        benchmark: Which.
        overrides: ``--cfg-options``; those of data and metric under test are used for it too.

    Raises:
        ESCNetError: If the data set has another number of classes than the benchmark, or nothing
            reads an override.
    """
    data = Config.fromfile(config_folder() / '_base_' / 'datasets' / benchmark.config)
    own, cfg = cfg, copy.deepcopy(cfg)
    for key in OF_BENCHMARK:
        cfg.pop(key, None)
        if key in data:
            cfg[key] = data[key]
    _keep_protocol(own, cfg.test_dataloader.dataset, benchmark.key)
    cfg = read_config(cfg, split_options(overrides)[1])
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


def _keep_protocol(own: Config, dataset: dict, key: str) -> None:
    """How images are resized, and what stands for a class, is said by the model's own config."""
    if own.get('test_dataloader') is not None:
        resizing = [step for step in pipeline_steps(own) if step['type'] == 'Resize']
        if len(resizing) == 1:
            dataset.pipeline = [
                copy.deepcopy(resizing[0]) if step['type'] == 'Resize' else step
                for step in dataset.pipeline
            ]
    phrases = (own.get('benchmark_phrases') or {}).get(key)
    if phrases is not None:
        dataset.metainfo = dict(dataset.get('metainfo') or {}, phrases=phrases)


def _results_file(
    kind: str, cfg: Config, checkpoint: str | None, tta: bool, subset: int | None
) -> tuple[Path, str]:
    """Where figures are kept; SHA-256 of the weights, or the address they come from."""
    if checkpoint is None:
        backbone = cfg.model.get('module', cfg.model).backbone
        path, _ = find_clip(backbone.get('model_name'), str(backbone.pretrained))
        name, weights = f'clip_{backbone.get("readout", "value")}', sha256(path)
    else:
        is_file = os.path.isfile(checkpoint)
        name, weights = Path(checkpoint).stem, sha256(checkpoint) if is_file else checkpoint
    name += ('_tta' if tta else '') + ('' if subset is None else f'_subset{subset}')
    return Path(cfg.work_dir) / f'{kind}_{name}.json', weights


def _write_results(path: Path, entries: Mapping[str, dict]) -> None:
    if is_main_process():
        write_file(path, json.dumps(dict(benchmarks=entries), indent=1).encode())


def _published_images(dataset: Dataset) -> int:
    """How many images the benchmark has; as many as there are if nobody published it."""
    counts = getattr(dataset, 'official_counts', None)
    in_all = getattr(dataset, 'images_in_all', len(dataset))  # of a first look
    if not counts:  # a wrapper has no files of its own
        return in_all
    split = Path(dataset.ann_file or dataset.data_prefix['img_path']).stem
    return counts.get(split, in_all)


def _build_lazily(dataset: dict) -> Dataset:
    return DATASETS.build(dict(copy.deepcopy(dataset), lazy_init=True))


def _training_classes(cfg: Config) -> Sequence[str] | None:
    dataset = (cfg.get('train_dataloader') or {}).get('dataset')
    if dataset is None or 'dataset' in dataset or 'datasets' in dataset:
        return None  # a wrapper cannot be built without its data
    return _build_lazily(dataset).metainfo.get('classes')


def _check_hooks(cfg: Config) -> None:
    types = [hook['type'] for hook in cfg.get('custom_hooks') or ()]
    hooks = [HOOKS.get(name) if isinstance(name, str) else name for name in types]
    if not any(hook is not None and issubclass(hook, VocabularyHook) for hook in hooks):
        raise ESCNetError(
            'The config has no VocabularyHook, so that the model would not look for the words of '
            "the benchmark: add dict(type='VocabularyHook') to custom_hooks."
        )


def _is_absent(dataset_cfg: dict) -> bool:
    dataset = _build_lazily(dataset_cfg)
    needed = [*dataset.data_prefix.values(), dataset.ann_file]
    return any(path and not os.path.exists(path) for path in needed)


def _digest(cfg: Config, dataset: Dataset) -> str:
    """SHA-256 of everything in a config that the figures depend on."""
    decisive = dict(
        model=cfg.model.to_dict(),
        loop=cfg.get('test_cfg'),
        dataset=cfg.test_dataloader.dataset.to_dict(),
        evaluator=cfg.test_evaluator.to_dict(),
        classes=list(dataset.metainfo['classes']),
        images=len(dataset),
    )
    text = json.dumps(decisive, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def read_results(path: Path) -> dict[str, dict]:
    """The entries of a file of figures by the key of the benchmark, or the type of the data set.

    Raises:
        ESCNetError: If it cannot be read, or is another file.
    """
    try:
        entries = dict(json.loads(path.read_text(encoding='utf-8'))['benchmarks'])
        for entry in entries.values():
            dict(entry['metrics'])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ESCNetError(
            f'{path} is not a file of benchmark results ({error!r}): move it away.'
        ) from error
    return entries


def _read_finished(path: Path) -> dict[str, dict]:
    """What the main process reads, in all processes."""
    found = [{}]
    if is_main_process() and path.exists():
        try:
            found = [read_results(path)]
        except ESCNetError as error:
            found = [error]
    broadcast_object_list(found)
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _is_finished(entry: dict | None, made_with: Mapping[str, str]) -> bool:
    if entry is None or any(entry.get(name) != value for name, value in made_with.items()):
        return False
    names = Path(made_with['predictions']) / NAMES_FILE if 'predictions' in made_with else None
    written = [path for path in (names, made_with.get('painted')) if path is not None]
    return all(map(os.path.exists, written))


def _run(
    cfg: Config, key: str, dataset: Dataset, checkpoint: str | None, made_with: dict, results: Path
) -> dict:
    """Run a benchmark and return what is kept of it, but for what it was made with."""
    cfg.work_dir = str(Path(cfg.work_dir) / key)
    if cfg.get('visualizer') is not None:  # MMEngine gives each name one
        cfg.visualizer.name = f'visualizer of {key}, {made_with.get("painted")}'
    if 'painted' in made_with:
        cfg.visualizer.save_dir = made_with['painted']
    try:
        if 'predictions' in made_with:
            save_predictions(cfg, dataset, made_with['predictions'], key)
        _print(f'{key}: {len(dataset)} images')
        return _measure(cfg, dataset, checkpoint)
    except ESCNetError as error:
        raise ESCNetError(f'{key}: {error}') from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f'finished benchmarks are kept in {results}; the same command resumes with {key}'
        ) from None
    finally:
        gc.collect()  # a runner refers to itself: its model goes before the next one is built


def _measure(cfg: Config, dataset: Dataset, checkpoint: str | None) -> dict:
    protocol = _protocol(cfg)
    cfg.load_from = checkpoint
    start = time.monotonic()
    metrics = build_test_runner(cfg).test()
    return dict(
        metrics={  # without the prefix of a first look
            name.rsplit('/', 1)[-1]: None if math.isnan(value) else float(value)
            for name, value in metrics.items()
            if isinstance(value, Real)
        },
        images=len(dataset),
        published_images=_published_images(dataset),
        version=__version__,
        seconds=round(time.monotonic() - start, 1),
        protocol=protocol,
    )


def _protocol(cfg: Config) -> dict:
    model = cfg.model.get('module', cfg.model)
    return dict(
        test_cfg=(model.get('test_cfg') or {}),
        pipeline=[dict(step) for step in pipeline_steps(cfg)],
        augmented='module' in cfg.model,
    )


def _print(text: str) -> None:
    if is_main_process():
        print(text, flush=True)
