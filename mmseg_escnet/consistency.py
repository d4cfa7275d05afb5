"""Settings that depend on each other, checked before the first step."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from .errors import ESCNetError

if TYPE_CHECKING:
    from mmengine.config import Config

_IGNORED = 255  # MMSegmentation's default, everywhere


def check_consistency(cfg: Config, *phases: str) -> None:
    """Check the settings of some phases that depend on each other.

    A loop that waits for the end of an epoch needs a sampler that has one; what counts epochs needs
    a loop that has some; checkpoints are saved after an update; only whole weights are averaged;
    and pixels without a class have one id in the data set, the crops, the padding, the loss and the
    metric.

    Args:
        cfg: A complete config.
        *phases: Of 'train', 'val' and 'test'; those without a data loader are left out.

    Raises:
        ESCNetError: Naming the settings, and what to set.
    """
    for phase in phases:
        loader = cfg.get(f'{phase}_dataloader')
        if loader is not None:
            _check_sampler(cfg, phase, loader)
            check_ignore_index(cfg, phase)
    if 'train' in phases and cfg.get('train_cfg') is not None and not _counts_epochs(cfg.train_cfg):
        _check_what_counts_epochs(cfg)
        _check_accumulation(cfg)
    if 'train' in phases:
        _check_average(cfg)


def use_no_workers(cfg: Config) -> None:
    """Remove what PyTorch refuses with ``num_workers=0``, and what has no effect then, in place."""
    for phase in ('train', 'val', 'test'):
        loader = cfg.get(f'{phase}_dataloader')
        if loader is not None and loader.get('num_workers') == 0:
            for name in ('persistent_workers', 'prefetch_factor', 'timeout'):
                loader.pop(name, None)


def check_ignore_index(cfg: Config, phase: str) -> None:
    """Check that the id of pixels without a class is one throughout a phase.

    Args:
        cfg: A complete config.
        phase: 'train', 'val' or 'test'.

    Raises:
        ESCNetError: With all settings that differ from the data set's, and how to set them.
    """
    path = f'{phase}_dataloader.dataset'
    for place, dataset in _datasets((cfg.get(f'{phase}_dataloader') or {}).get('dataset'), path):
        index = dataset.get('ignore_index', _default(dataset.get('type')))
        steps = _crops(dataset.get('pipeline') or (), f'{place}.pipeline')
        others = [*steps, *(_of_training(cfg) if phase == 'train' else _of_metric(cfg, phase))]
        different = {name: other for name, other in others if other != index}
        if different:
            has = ', '.join(f'{name}={other}' for name, other in different.items())
            options = ' '.join(f'{name}={index}' for name in different)
            raise ESCNetError(
                f'{place} has ignore_index={index}, the id of pixels without a class, but {has}: '
                f'set {options}, or the data set like these.'
            )


def _of_training(cfg: Config) -> Iterator[tuple[str, int]]:
    model = cfg.get('model') or {}
    if (preprocessor := model.get('data_preprocessor')) is not None:
        name = 'model.data_preprocessor.seg_pad_val'
        yield name, preprocessor.get('seg_pad_val', _IGNORED)
    for key in ('decode_head', 'auxiliary_head'):
        head = model.get(key)
        if isinstance(head, Mapping):
            yield f'model.{key}.ignore_index', head.get('ignore_index', _IGNORED)
        elif isinstance(head, Sequence):
            for number, one in enumerate(head):
                yield f'model.{key}.{number}.ignore_index', one.get('ignore_index', _IGNORED)


def _of_metric(cfg: Config, phase: str) -> Iterator[tuple[str, int]]:
    metrics, name = cfg.get(f'{phase}_evaluator') or (), f'{phase}_evaluator'
    if isinstance(metrics, Mapping) and 'metrics' in metrics:
        metrics, name = metrics['metrics'], f'{name}.metrics'
    single = isinstance(metrics, Mapping)
    for number, metric in enumerate([metrics] if single else metrics):
        if metric.get('type') in ('OpenVocabIoUMetric', 'IoUMetric'):
            prefix = name if single else f'{name}.{number}'
            yield f'{prefix}.ignore_index', metric.get('ignore_index', _IGNORED)


def _crops(steps: Sequence[Mapping], path: str) -> Iterator[tuple[str, int]]:
    """What transforms fill in, or do not count among the classes."""
    for number, step in enumerate(steps):
        kind, name = step.get('type'), f'{path}.{number}'
        if kind == 'RandomCrop' and step.get('cat_max_ratio', 1.0) < 1:
            yield f'{name}.ignore_index', step.get('ignore_index', _IGNORED)
        elif kind == 'RandomRotate':
            yield f'{name}.seg_pad_val', step.get('seg_pad_val', _IGNORED)
        elif kind == 'Pad' and isinstance(value := step.get('pad_val', {}), Mapping):
            yield f'{name}.pad_val.seg', value.get('seg', _IGNORED)


def _datasets(dataset: Mapping | None, path: str) -> Iterator[tuple[str, Mapping]]:
    """The data sets inside wrappers, with their paths."""
    if dataset is None:
        return
    if 'dataset' in dataset:
        yield from _datasets(dataset['dataset'], f'{path}.dataset')
    elif 'datasets' in dataset:
        for number, part in enumerate(dataset['datasets']):
            yield from _datasets(part, f'{path}.datasets.{number}')
    else:
        yield path, dataset


def _default(kind: str | type | None) -> int:
    """The ``ignore_index`` of a kind of data set."""
    from mmseg.registry import DATASETS

    dataset = DATASETS.get(kind) if isinstance(kind, str) else kind
    for base in getattr(dataset, '__mro__', ()):
        parameter = inspect.signature(base.__init__).parameters.get('ignore_index')
        if parameter is not None:
            return parameter.default
    return _IGNORED


def _check_sampler(cfg: Config, phase: str, loader: Mapping) -> None:
    from mmengine.dataset import InfiniteSampler

    sampler = loader.get('sampler') or {}
    if not _is_a(sampler.get('type'), InfiniteSampler):
        return
    if phase != 'train':
        raise ESCNetError(
            f'{phase}_dataloader.sampler is {sampler["type"]}, which never ends: set its type to '
            'DefaultSampler.'
        )
    train_cfg = cfg.get('train_cfg')
    if train_cfg is not None and _counts_epochs(train_cfg):
        raise ESCNetError(
            f'train_cfg counts epochs, but train_dataloader.sampler is {sampler["type"]}, whose '
            'first epoch never ends: set train_dataloader.sampler.type=DefaultSampler, or '
            'train_cfg.type=IterBasedTrainLoop with max_iters.'
        )


def _check_what_counts_epochs(cfg: Config) -> None:
    from mmengine.hooks import CheckpointHook

    hooks = (cfg.get('default_hooks') or {}).items()
    counting = [
        f'default_hooks.{name}.by_epoch'
        for name, hook in hooks
        if hook is not None
        and _is_a(hook.get('type'), CheckpointHook)
        and hook.get('by_epoch', True)
        and hook.get('interval', -1) > 0
    ]
    schedulers = cfg.get('param_scheduler') or ()
    single = isinstance(schedulers, Mapping)
    for number, scheduler in enumerate([schedulers] if single else schedulers):
        is_converted = scheduler.get('convert_to_iter_based', False)
        follows_metric = str(scheduler.get('type')).startswith('ReduceOnPlateau')
        if scheduler.get('by_epoch', True) and not (is_converted or follows_metric):
            counting.append(f'param_scheduler{"" if single else f".{number}"}.by_epoch')
    if counting:
        raise ESCNetError(
            f'train_cfg counts iterations, but {", ".join(counting)} is True (the default), and '
            'nothing would happen before the end: set it to False.'
        )


def _check_accumulation(cfg: Config) -> None:
    from mmengine.hooks import CheckpointHook

    hooks = (cfg.get('default_hooks') or {}).items()
    counts = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    intervals = {'train_cfg.val_interval': cfg.train_cfg.get('val_interval', 1)}
    for name, hook in hooks:
        if hook is not None and _is_a(hook.get('type'), CheckpointHook):
            intervals[f'default_hooks.{name}.interval'] = hook.get('interval', -1)
    if cfg.get('val_dataloader') is None:
        del intervals['train_cfg.val_interval']
    if wrong := [name for name, steps in intervals.items() if steps > 0 and steps % counts]:
        raise ESCNetError(
            f'optim_wrapper.accumulative_counts={counts} updates the weights after every {counts} '
            f'steps, but {", ".join(wrong)} may save a checkpoint in between, whose gradients are '
            f'lost when it is resumed: set a multiple of {counts}.'
        )


def _check_average(cfg: Config) -> None:
    from mmengine.hooks import EMAHook

    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or ())]
    averages = any(hook is not None and _is_a(hook.get('type'), EMAHook) for hook in hooks)
    if averages and cfg.get('runner_type') == 'FlexibleRunner':
        raise ESCNetError(
            f'EMAHook cannot average the weights in runner_type={cfg.runner_type}, whose shards it '
            'does not know: remove the hook, or train with DDP.'
        )


def _counts_epochs(train_cfg: Mapping) -> bool:
    from mmengine.runner import EpochBasedTrainLoop

    return train_cfg.get('by_epoch', False) or _is_a(train_cfg.get('type'), EpochBasedTrainLoop)


def _is_a(kind: str | type | None, parent: type) -> bool:
    """Whether a type of a config, by name or itself, is a class or inherits from it."""
    from mmseg.registry import DATA_SAMPLERS, HOOKS, LOOPS

    if isinstance(kind, str):
        kind = next((r.get(kind) for r in (DATA_SAMPLERS, LOOPS, HOOKS) if r.get(kind)), None)
    return inspect.isclass(kind) and issubclass(kind, parent)
