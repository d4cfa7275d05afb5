"""The names of a config's settings: one that nothing reads is an error."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from .errors import ESCNetError, did_you_mean, first_few, nearest

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.registry import Registry

_PHASES = ('train', 'val', 'test')
# what MMEngine's runners, MMSegmentation and this package read at the top of a config
TOP_LEVEL = frozenset(
    [f'{phase}_{part}' for phase in _PHASES for part in ('dataloader', 'cfg')]
    + ['model', 'optim_wrapper', 'auto_scale_lr', 'param_scheduler', 'val_evaluator']
    + ['test_evaluator', 'default_hooks', 'custom_hooks', 'work_dir', 'experiment_name']
    + ['load_from', 'resume', 'launcher', 'env_cfg', 'log_processor', 'log_level', 'visualizer']
    + ['default_scope', 'randomness', 'runner_type', 'strategy', 'compile', 'model_wrapper_cfg']
    + ['find_unused_parameters', 'sync_bn', 'activation_checkpointing', 'custom_imports']
    + ['efficient_conv_bn_eval', 'tta_model', 'tta_pipeline', 'benchmark_phrases']
    + ['init_weights_for_test_or_val']
)
# what a benchmark brings along: overrides of these are the benchmark's, not the model config's
OF_BENCHMARK = ('test_dataloader', 'test_evaluator', 'tta_pipeline')
# of dicts without a type, by their path
_LOADER = ['dataset', 'sampler', 'batch_sampler', 'collate_fn', 'worker_init_fn']
_LOADER += ['num_batch_per_epoch', 'disable_subprocess_warning']
_WITHOUT_TYPE: dict[str, list[str]] = {
    r'env_cfg': ['cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'],
    r'auto_scale_lr': ['base_batch_size', 'enable'],
    r'optim_wrapper\.paramwise_cfg': ['custom_keys', 'bias_lr_mult', 'bias_decay_mult']
    + ['norm_decay_mult', 'flat_decay_mult', 'dwconv_decay_mult', 'dcn_offset_lr_mult']
    + ['bypass_duplicate'],
    r'optim_wrapper\.paramwise_cfg\.custom_keys\..*': ['lr_mult', 'decay_mult'],
    r'optim_wrapper\.clip_grad': ['max_norm', 'norm_type', 'error_if_nonfinite', 'foreach']
    + ['clip_value', 'type'],
    r'.*_dataloader\..*data_prefix': ['img_path', 'seg_map_path', 'img_path2', 'depth_map_path'],
}
# mmcv's builders of layers take more than the layers do
_OF_LAYERS = ('norm_cfg', 'conv_cfg', 'act_cfg', 'upsample_cfg')
# what builders take out of a dict before its class sees the rest, by its path
_OF_BUILDERS = {
    r'optim_wrapper': ['constructor', 'paramwise_cfg'],
    r'param_scheduler(\.\d+)?': ['convert_to_iter_based'],
    r'(default|custom)_hooks\.\w+': ['priority'],
}
_OF_CONFIGS = {'type', '_scope_', '_delete_'}


def split_options(options: Mapping[str, object] | None) -> tuple[dict, dict]:
    """Overrides of a model's config, and those of each benchmark that it is evaluated on."""
    own, of_benchmark = {}, {}
    for key, value in (options or {}).items():
        (of_benchmark if key.split('.')[0] in OF_BENCHMARK else own)[key] = value
    return own, of_benchmark


def check_options(cfg: Config, options: Mapping[str, object]) -> None:
    """Check that overrides change something that is read.

    Args:
        cfg: The config, without them.
        options: Settings to override, nested keys with dots.

    Raises:
        ESCNetError: For a name that nothing reads; for a variable of the config file, whose value
            is already where it is used, with these places.
    """
    known = set(TOP_LEVEL)
    for name, place in (
        ('data_preprocessor', 'model.data_preprocessor'),
        ('test_pipeline', 'test_dataloader.dataset.pipeline'),
    ):
        if not _get(cfg, place):  # read in its stead
            known.add(name)
    for key in options:
        name = key.split('.')[0]
        if name in known:
            continue
        if name not in cfg:
            raise ESCNetError(f'The setting {key} does not exist: {did_you_mean(name, known)}')
        rest = key[len(name) :]
        tops = sorted(known & cfg.keys())
        places = [path + rest for top in tops for path in _uses(cfg, name, top)]
        instead = f'override {first_few(places)} instead' if places else 'remove it'
        raise ESCNetError(
            f'{key} has no effect, since {name} is only a variable of the config file, whose value '
            f'was inserted when the file was read: {instead}.'
        )


def check_names(cfg: Config) -> None:
    """Check the names of the settings of all parts of a config whose type is registered.

    Raises:
        ESCNetError: For a name that is no parameter of its part, with the nearest that is.
    """
    for top in sorted(TOP_LEVEL & cfg.keys()):
        for path, part in _dicts(cfg[top], top):
            if path.startswith('optim_wrapper.paramwise_cfg') and cfg[top].get('constructor'):
                continue  # whose settings are its own
            if re.fullmatch(r'default_hooks\.\w+', path) and 'type' not in part:
                name = path.rsplit('.', 1)[-1]
                others = [key for key in cfg[top] if key != name]
                raise ESCNetError(f'{path} has no type: {did_you_mean(name, others)}')
            _check_part(path, part)


def _check_part(path: str, part: Mapping) -> None:
    names, what = _names_of(path, part)
    if names is None:
        return
    known = {*names, *_by_path(_OF_BUILDERS, path)} - {'self'}
    for name in part:
        if name not in known | _OF_CONFIGS:
            raise ESCNetError(f'{path}.{name} is no setting{what}: {did_you_mean(name, known)}')


def _by_path(table: Mapping[str, list[str]], path: str) -> list[str]:
    return next((names for pattern, names in table.items() if re.fullmatch(pattern, path)), [])


def _names_of(path: str, part: Mapping) -> tuple[Collection[str] | None, str]:
    """The settings that a part may have, None for any; and of what they are."""
    kind = part.get('type')
    if path.endswith(_OF_LAYERS):
        return None, ''
    if kind is None:
        return _names_without_type(path), ''
    if not isinstance(kind, str):
        return (_parameters(kind) if callable(kind) else None), f' of {kind}'
    found = _registered(kind.rsplit('.', 1)[-1])
    names = [_parameters(entry) for entry in found]
    if not found:
        _check_type(f'{path}.type', kind)
    if not found or None in names:
        return None, ''
    return set().union(*names), f' of {kind}'


def _names_without_type(path: str) -> Collection[str] | None:
    from mmengine.optim import OptimWrapper
    from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, LogProcessor
    from mmengine.runner.utils import set_random_seed
    from mmengine.utils.dl_utils import set_multi_processing
    from torch.utils.data import DataLoader

    if names := _by_path(_WITHOUT_TYPE, path):
        return names
    if path.endswith('_dataloader') and '.' not in path:
        return {*_parameters(DataLoader), *_LOADER}
    if path == 'train_cfg':
        loops = _parameters(EpochBasedTrainLoop), _parameters(IterBasedTrainLoop)
        return {*loops[0], *loops[1], 'by_epoch'}
    of_functions = {
        'optim_wrapper': OptimWrapper,
        'log_processor': LogProcessor,
        'randomness': set_random_seed,
        'env_cfg.mp_cfg': set_multi_processing,
    }
    return _parameters(of_functions[path]) if path in of_functions else None


@cache
def _parameters(entry: Callable) -> Collection[str] | None:
    """Names of the arguments of a class or function; None if it takes any."""
    functions = [entry]
    if inspect.isclass(entry):
        functions = [vars(c)['__init__'] for c in entry.__mro__ if '__init__' in vars(c)]
    names: set[str] = set()
    for function in functions:  # `**kwargs` are those of the next class
        if function is object.__init__:
            return None
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return None
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return names
    return None


def _registered(name: str) -> list[Callable]:
    """All that is registered under a name, anywhere."""
    found = (registry.module_dict.get(name) for registry in _registries())
    return list({id(entry): entry for entry in found if entry is not None}.values())


def _check_type(path: str, kind: str) -> None:
    """Refuse a mistyped type; one that resembles no other may be registered later."""
    if any(registry.get(kind) for registry in _registries()):  # imports what may have it
        return
    known = {name for registry in _registries() for name in registry.module_dict}
    if 'mmseg_escnet.components' in sys.modules and (near := nearest(kind, known, cutoff=0.85)):
        raise ESCNetError(f'{path}={kind!r} is not registered: did you mean {near}?')


@cache
def _registries() -> list[Registry]:
    import mmengine.registry
    import mmseg.registry

    found = [*vars(mmseg.registry).values(), *vars(mmengine.registry).values()]
    return [registry for registry in found if isinstance(registry, mmengine.registry.Registry)]


def _dicts(value: object, path: str) -> Iterator[tuple[str, Mapping]]:
    """All dicts within a value, with their paths."""
    if isinstance(value, Mapping):
        yield path, value
        items = value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str):
        items = enumerate(value)
    else:
        return
    for key, item in items:
        yield from _dicts(item, f'{path}.{key}')


def _uses(cfg: Config, name: str, path: str) -> Iterator[str]:
    """Where the value of a variable was inserted below a path, as far as can be seen."""
    value, variable = _get(cfg, path), cfg[name]
    same = value == variable and not isinstance(variable, (bool, int, float, type(None)))
    if isinstance(variable, str) and isinstance(value, str):
        same = len(variable) > 2 and variable in value  # such as a folder
    if same or path.rsplit('.', 1)[-1] == name:
        yield path
    elif isinstance(value, Mapping):
        for key in value:
            yield from _uses(cfg, name, f'{path}.{key}')
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index in range(len(value)):
            yield from _uses(cfg, name, f'{path}.{index}')


def _get(cfg: Config, path: str) -> object:
    value = cfg
    for key in path.split('.'):
        if isinstance(value, Mapping) or value is cfg:
            value = value.get(key)
        else:
            value = value[int(key)] if isinstance(value, Sequence) else None
    return value
